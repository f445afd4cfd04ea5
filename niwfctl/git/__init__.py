"""git as the repository needs it, through its plumbing; no model and no capability in sight."""

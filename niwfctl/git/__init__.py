"""What the repository needs of git, through its plumbing; knows no models and no capabilities."""

"""Pictures of the capability space: on the terminal, as a page, as a figure. No torch."""

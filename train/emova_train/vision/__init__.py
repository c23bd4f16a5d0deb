"""Training the vision tower."""

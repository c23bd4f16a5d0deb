"""From trained parts to a checkpoint."""

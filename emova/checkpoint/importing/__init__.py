"""Weights that others released, as checkpoints of ours: every tensor named, and the way back."""

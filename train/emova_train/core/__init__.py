"""One training loop for every program: configs, steps, checkpoints, curves."""

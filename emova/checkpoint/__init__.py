"""Checkpoint folders: loading and checking their parts, building parts by their kind, other formats."""

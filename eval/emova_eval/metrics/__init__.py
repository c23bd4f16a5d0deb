"""Metrics: each turns one answer into a score, and a list of scores into one figure."""

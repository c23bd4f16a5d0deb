"""Choosing tokens one after the other: the loop, sampling, CTC over heard units."""

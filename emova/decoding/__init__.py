"""Choosing tokens one after the other: the loop, sampling, joint decoding with CTC."""

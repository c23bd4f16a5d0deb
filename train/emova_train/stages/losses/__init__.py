"""Losses beside that of the next token."""

"""Judges: of words, of answers, of voices."""

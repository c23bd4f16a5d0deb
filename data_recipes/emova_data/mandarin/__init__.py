"""Mandarin text as it is said: numbers in words, phones with their tones, symbols of an offline voice."""

"""Everyday sentences of many writers, read aloud by the canonical voice: what emova-nano learns to read from."""

"""The goals of emova-nano, measured."""

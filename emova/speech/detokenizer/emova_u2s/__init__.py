"""The unit-to-speech decoder of the EMOVA release: VITS with predicted durations and a style vector."""

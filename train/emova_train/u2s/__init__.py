"""Training the unit-to-speech detokenizer."""

"""Training the speech-to-unit tokenizers."""

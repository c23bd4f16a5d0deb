"""The speech-to-unit tokenizer of the EMOVA release: its features, its SPIRAL encoder, its quantiser."""

"""``emova eval codecs``: pairs of a speech tokenizer and a decoder, side by side."""

"""The recipe ``nano-zh``: Mandarin and English in one codec and one small language model, offline."""

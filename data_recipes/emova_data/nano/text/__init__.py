"""The recipe's texts: sentences, talk, what can be said aloud."""

"""The recipe's speech sets."""

"""The recipe's voices and speaking styles."""

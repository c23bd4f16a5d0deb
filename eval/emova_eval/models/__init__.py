"""Models as the evaluation sees them."""

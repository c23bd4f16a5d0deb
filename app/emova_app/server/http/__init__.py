"""What stands around all routes: limits, fetching, streams."""

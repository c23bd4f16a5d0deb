"""Training records, and shards of them."""

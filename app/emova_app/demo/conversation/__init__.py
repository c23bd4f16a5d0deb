"""The talks of all open pages: what they ask, what they are told, and who waits for a place."""

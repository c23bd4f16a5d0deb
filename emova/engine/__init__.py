"""The streaming engine: a LLaMA without overhead, its caches, and many replies in one step."""

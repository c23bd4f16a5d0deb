"""``emova eval tokenizer``: one table for any speech tokenizer of the registry."""

"""The reply as the model writes it: its formats, the grammar that it is written under, and the parser."""

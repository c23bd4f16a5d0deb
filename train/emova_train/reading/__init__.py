"""Learning to read aloud: the language model alone, on sentences and the units that say them, in rows of one shape."""

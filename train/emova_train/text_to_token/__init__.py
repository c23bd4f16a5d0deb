"""Training of a text-to-token model: text to the units that say it, without any sound (GLM-4-Voice §4.1)."""

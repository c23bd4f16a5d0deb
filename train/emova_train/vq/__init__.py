"""Training of the supervised speech tokenizer (GLM-4-Voice, Zeng et al. 2024, §3.1)."""

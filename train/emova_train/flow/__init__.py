"""Training of the flow-matching decoder (GLM-4-Voice, Zeng et al. 2024, §3.2)."""

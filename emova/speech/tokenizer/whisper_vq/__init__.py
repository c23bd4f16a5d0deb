"""GLM-4-Voice's speech tokenizer: Whisper's encoder, made causal block by block, with a codebook in its middle."""

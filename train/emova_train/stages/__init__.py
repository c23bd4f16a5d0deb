"""The stages of the omni-modal model (EMOVA section 4)."""

"""GLM-4-Voice's decoder: units to mel frames by flow matching, mel frames to sound by a HiFT vocoder."""

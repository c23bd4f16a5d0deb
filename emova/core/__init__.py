"""What everything stands on: errors, configs, files, weights, seeds."""

"""The registry's entries, one YAML file a stage."""

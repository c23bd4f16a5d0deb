"""The shipped configs; installed as the package ``emova_configs``."""

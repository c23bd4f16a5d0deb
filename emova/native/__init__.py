"""C that is compiled for the machine it runs on, and its bindings."""

"""Benchmarks as tasks: what is asked, how it is scored, and a run over several."""

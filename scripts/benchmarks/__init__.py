"""How fast, and in how much memory: `python -m scripts.benchmarks.training` and its like."""

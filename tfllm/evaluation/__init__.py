"""Evaluation: sums over a whole split, then metrics."""

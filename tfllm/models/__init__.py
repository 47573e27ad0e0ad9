"""Models: one generic decoder; families are settings of it."""

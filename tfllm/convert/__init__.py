"""Checkpoints of other libraries: a family is a table of config keys and weight names, read both ways."""

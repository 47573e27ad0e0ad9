"""Tokenizers as TensorFlow operations: each is made of a vocabulary and of its kind's rules, and knows no kind."""

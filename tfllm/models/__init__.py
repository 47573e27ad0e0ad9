"""Models: one generic decoder, one encoder; families are settings of them."""

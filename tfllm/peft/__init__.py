"""Training little of a model: what stands beside its matrices, or a part of them."""

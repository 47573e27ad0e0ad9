"""Training: receives a model, a task and datasets, and knows none of their packages."""

"""Export: SavedModels that a stock TensorFlow Serving runs."""

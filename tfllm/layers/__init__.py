"""Layers: TensorFlow and Keras only, flat keyword arguments, no config objects."""

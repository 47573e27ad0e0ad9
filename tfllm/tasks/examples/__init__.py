"""What tasks make of records before training: a file a task. Nothing here imports TensorFlow."""

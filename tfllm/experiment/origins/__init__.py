"""Where a model comes from: a run, a checkpoint of another library, a preset of KerasHub."""

"""The command line: thin commands over `tfllm.experiment` and `tfllm.load`."""

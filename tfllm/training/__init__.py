"""tfllm.training"""

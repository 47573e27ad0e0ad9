"""tfllm.layers"""

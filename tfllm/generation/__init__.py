"""tfllm.generation"""

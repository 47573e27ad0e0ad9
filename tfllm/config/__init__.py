"""tfllm.config"""

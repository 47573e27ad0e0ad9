"""tfllm.tokenizers"""

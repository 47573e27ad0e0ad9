"""tfllm.models"""

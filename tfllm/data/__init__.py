"""tfllm.data"""

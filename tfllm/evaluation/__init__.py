"""tfllm.evaluation"""

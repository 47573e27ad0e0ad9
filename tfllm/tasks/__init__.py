"""tfllm.tasks"""

"""tfllm.export"""

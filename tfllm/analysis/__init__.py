"""tfllm.analysis"""

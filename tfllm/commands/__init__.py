"""tfllm.commands"""

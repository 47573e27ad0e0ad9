"""Analysis: what a model attends to, and how its training went, as arrays and figures.

`attention` needs numpy only; `plots` draws with Matplotlib and is imported by name.
"""

from tfllm.analysis.attention import AttentionMaps, attention_maps
from tfllm.analysis.errors import AnalysisError

__all__ = ["AnalysisError", "AttentionMaps", "attention_maps"]

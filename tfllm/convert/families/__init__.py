"""The families that are known, by `model_type`."""

from tfllm.convert.families.bart import BART
from tfllm.convert.families.bert import BERT, ROBERTA, XLM_ROBERTA
from tfllm.convert.families.distilbert import DISTILBERT
from tfllm.convert.families.gemma import GEMMA2, GEMMA3_TEXT
from tfllm.convert.families.gpt2 import GPT2
from tfllm.convert.families.gpt_neox import GPT_NEOX
from tfllm.convert.families.llama import LLAMA, MISTRAL, QWEN2, QWEN3
from tfllm.convert.families.marian import MARIAN
from tfllm.convert.families.t5 import MT5, T5
from tfllm.convert.family import Family

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        *(LLAMA, GPT2, MISTRAL, QWEN2, QWEN3, GEMMA2, GEMMA3_TEXT, GPT_NEOX),
        *(BERT, ROBERTA, XLM_ROBERTA, DISTILBERT),
        *(T5, MT5, BART, MARIAN),
    )
}

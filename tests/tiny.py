"""Tiny models that the tests share, with weights large enough for every part to show in the outputs."""

import numpy as np

from tfllm.config import config_from_mapping
from tfllm.experiment import make_model
from tfllm.language_model import LanguageModel
from tfllm.models.decoder import Decoder
from tfllm.tokenizers import ByteBPETokenizer

TEMPLATE = "{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}"


def randomized(model, scale=0.3, seed=0):
    """Builds the model and draws every variable anew, biases too: normal around 0, and scales of norms around 1."""
    model.build()
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        base = 1.0 if variable.path.endswith("scale") else 0.0
        variable.assign(base + scale * rng.normal(size=variable.shape))
    return model


def tiny_decoder(**arguments):
    """A decoder of one block of width 16 with four heads, 23 tokens and a context of 48."""
    sizes = {"vocab_size": 23, "num_layers": 1, "hidden_dim": 16, "num_heads": 4, "max_seq_len": 48}
    return randomized(Decoder(**{**sizes, **arguments}), scale=0.5)


def weights(model):
    return {variable.path: variable.numpy() for variable in model.variables}


def tiny_lm(name="tiny", **model):
    """A decoder of two blocks with a byte BPE of 290 tokens and a chat template; `model` changes its section."""
    tokenizer = ByteBPETokenizer.train(
        ["the quick brown fox jumps over the lazy dog "] * 20,
        vocab_size=290,
        extra_special_tokens=["<|user|>", "<|end|>"],
    )
    tokenizer.chat_template = TEMPLATE
    sizes = {"num_layers": 2, "hidden_dim": 16, "num_heads": 4, "num_kv_heads": 2, "max_seq_len": 64}
    mapping = {
        "name": name,
        "model": {**sizes, **model},
        "data": {"seq_len": 32},
        "generation": {"max_new_tokens": 8, "temperature": 0.0, "top_p": 1.0, "stop_tokens": ["<|end|>"]},
    }
    config = config_from_mapping(mapping, for_training=False)
    made = make_model(config, tokenizer.vocab_size)
    for variable in made.variables:  # larger than new weights, so that rounding them shows
        variable.assign(variable * 3)
    return LanguageModel(made, tokenizer, config, jit_compile=False)


def write_tokenizer(folder):
    """A WordPiece, whose ids fit the small vocabulary of the goldens."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", *(f"##{c}" for c in "abcdefghij")]
    (folder / "vocab.txt").write_text("\n".join(names) + "\n")

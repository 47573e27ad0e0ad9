"""A model built from a config, and the numbers in which its keys show."""

import functools
import json
import math
from functools import cached_property

import numpy as np
import tensorflow as tf

from tests.promises.runs import mapping
from tfllm import experiment
from tfllm.config import config_from_mapping
from tfllm.config.build import to_mapping

LENGTH = 12


class Built:
    """Args:
    model: A Keras model.
    section: The `model` section it was built from, defaults filled in.
    """

    def __init__(self, model, section):
        self.model, self.section = model, section
        self.by_path = {v.path: v.numpy() for v in model.variables}
        self.paths = [v.path.partition("/")[2] for v in model.variables]

    @property
    def features(self):
        rng = np.random.default_rng(0)
        ids = tf.constant(rng.integers(0, 250, [2, LENGTH]), tf.int32)
        if self.section["type"] == "encoder_decoder":
            return {"encoder_token_ids": ids, "decoder_token_ids": ids[:, ::-1]}
        return {"token_ids": ids}

    @cached_property
    def outputs(self):
        return self.model(self.features, attention_scores=True)

    @cached_property
    def numbers(self):
        """Everything that comes out, by name, float32."""
        flat = {name: x for name, x in self.outputs.items() if not isinstance(x, dict)}
        return {name: x.numpy() for name, x in flat.items()}

    def scores(self, block):
        return self.outputs["attention_scores"][block].numpy()

    def of(self, ending):
        """The one variable whose path ends so."""
        found = [value for path, value in self.by_path.items() if path.endswith(ending)]
        assert found, f"no variable ends with {ending}"
        return found[0]


def built(section) -> Built:
    """Builds `model: section` for a tokenizer of 259 tokens and rows of 16."""
    config = config_from_mapping(mapping("unused", model=dict(section)), for_training=False)
    return Built(experiment.make_model(config, 259), to_mapping(config.model))


def same_weights(section, others: dict) -> Built:
    """Builds it with the weights of another model, where it has ones of their path and shape."""
    model, own, drawn = _scratch(json.dumps(section))
    for variable in model.variables:
        value = others.get(variable.path)
        fits = value is not None and value.shape == tuple(variable.shape)
        variable.assign(value if fits else drawn[variable.path])
    made = Built(model, own)
    assert made.numbers, "computed now: the next one gets other weights"
    return made


@functools.cache
def _scratch(text: str):
    made = built(json.loads(text))
    return made.model, made.section, made.by_path


def first_scores(model: Built, index=0):
    """Attention of a decoder's block over its embeddings alone, in float64: [B, N, T, S]; only block 0 sees them."""
    s, w = model.section, {path: x.astype(np.float64) for path, x in model.by_path.items()}
    ids = model.features["token_ids"].numpy()
    x = w["decoder/token_embedding/embeddings"][ids]
    x = x * math.sqrt(s["hidden_dim"]) if s["scale_embeddings"] else x
    block = f"decoder/block_{index:02d}/"
    x = _rms(x, w[block + "attention_norm/scale"], s)
    heads, width = s["num_heads"], s["head_dim"] or s["hidden_dim"] // s["num_heads"]
    pair = []
    for name, count in (("query", heads), ("key", s["num_kv_heads"] or heads)):
        y = x @ w[block + f"attention/{name}/kernel"] + w.get(block + f"attention/{name}/bias", 0.0)
        y = y.reshape(*ids.shape, count, width)
        if s["qk_norm"]:
            assert block + f"attention/{name}_norm/scale" in w, "no norm of queries and keys"
            y = _rms(y, w[block + f"attention/{name}_norm/scale"], s)
        pair.append(np.repeat(_turned(y, s, index), heads // count, axis=2))
    scores = np.einsum("btnh,bsnh->bnts", *pair) * (s["attention_scale"] or width**-0.5)
    cap = s["attention_soft_cap"]
    scores = cap * np.tanh(scores / cap) if cap else scores
    back = np.arange(LENGTH)[:, None] - np.arange(LENGTH)
    seen = (back >= 0) & (back < (s["sliding_window"] if _slides(s, index) else LENGTH))
    scores = np.exp(np.where(seen, scores, -np.inf))
    return scores / scores.sum(-1, keepdims=True)


def _rms(x, scale, s):
    scale = 1 + scale if s["norm_unit_offset"] else scale
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + s["norm_epsilon"]) * scale


def _slides(s, index):
    return s["sliding_window"] is not None and index in (s["sliding_layers"] or range(s["num_layers"]))


def _turned(x, s, index):
    width = s["rotary_dim"] or x.shape[-1]
    local = _slides(s, index) and s["rope_local_theta"] is not None
    theta = s["rope_local_theta"] if local else s["rope_theta"]
    turns, size = _frequencies(width, theta, None if local else s["rope_scaling"])
    angles = np.arange(LENGTH)[:, None, None] * turns
    first, second, rest = np.split(x, [width // 2, width], axis=-1)
    cos, sin = np.cos(angles) * size, np.sin(angles) * size
    return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], -1)


def _frequencies(width, theta, scaling):
    """Radians a token of each pair, and what they are multiplied by (transformers' modeling_rope_utils)."""
    pairs = np.arange(width // 2)
    base = theta ** (-2.0 * pairs / width)
    if scaling is None:
        return base, 1.0
    if scaling["type"] == "factors":
        return base / np.array(scaling["factors"]), 1.0
    slow = base / scaling["factor"]
    if scaling["type"] == "linear":
        return slow, 1.0
    context = scaling["original_max_seq_len"]
    if scaling["type"] == "llama3":
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        smooth = np.clip((context / (2 * math.pi / base) - low) / (high - low), 0, 1)
        return smooth * base + (1 - smooth) * slow, 1.0
    bounds = [
        width * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(theta))
        for turns in (scaling["beta_fast"], scaling["beta_slow"])
    ]
    if scaling["truncate"]:
        bounds = [math.floor(bounds[0]), math.ceil(bounds[1])]
    first, last = max(bounds[0], 0), min(bounds[1], width - 1)
    ramp = np.clip((pairs - first) / max(last - first, 1e-3), 0, 1)
    size = scaling["attention_factor"] or 0.1 * math.log(scaling["factor"]) + 1
    return ramp * slow + (1 - ramp) * base, size

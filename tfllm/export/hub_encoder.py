"""Encoders in the interface of TensorFlow Hub: three SavedModels that anyone loads, and can train on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfllm.export.bert_packer import BertPacker
from tfllm.export.errors import ExportError
from tfllm.export.lint import lint_saved_model
from tfllm.export.saved_model import in_float32, part_folder
from tfllm.layers.pooling import first_token, mean_pool
from tfllm.tokenizers import Tokenizer

POOLINGS = ("pooler", "mean", "first")
_INPUTS = ("input_word_ids", "input_mask", "input_type_ids")


def export_hub_encoder(
    model: Any,
    tokenizer: Tokenizer,
    folder: str | Path,
    *,
    seq_len: int = 128,
    pooling: str | None = None,
    normalize: bool = False,
) -> Path:
    """Writes an encoder as three SavedModels with the interfaces of TensorFlow Hub.

    They are those of https://www.tensorflow.org/hub/common_saved_model_apis/text, which `hub.load` and
    `HubEncoder` read, without tfllm where need be, and which can be trained on:

    - `preprocess/`: called with texts, string [B], it returns `input_word_ids`, `input_mask` and
      `input_type_ids`, int32 [B, seq_len]; `tokenize` and `bert_pack_inputs` make rows of two texts, and of
      other lengths.
    - `encoder/`: called with these, it returns `sequence_output` [B, T, D], `pooled_output` [B, D],
      `default` [B, D], the vector that stands for the row, and `encoder_outputs`, a list of [B, T, D]. With
      `training=True` it drops out only where the inputs hold `row_seeds` int32 [B], other ones at each step:
      all randomness here follows from seeds that are given.
    - `text_embedding/`: called with texts it returns `default`; its signature also serves.

    Args:
        model: An `Encoder`; its head, if any, is left out.
        tokenizer: Its tokenizer.
        folder: A folder that does not exist yet, or is empty.
        seq_len: Length of the rows that texts become.
        pooling: What the row's vector is: pooler, mean (over real tokens) or first (token). None is the pooler
            where there is one, else mean.
        normalize: Divide that vector by its length, as sentence encoders do.

    Returns:
        The folder.

    Raises:
        ExportError: when an option does not fit the model, or the folder cannot be written; nothing is left
            behind.
    """
    pooling = pooling or ("mean" if model.pooler is None else "pooler")
    folder = Path(folder)
    _check(model, tokenizer, folder, seq_len, pooling)
    encoder = _encoder(in_float32(model), pooling=pooling, normalize=normalize)
    preprocess = _preprocessor(tokenizer, seq_len, _num_token_types(model))
    embedding = _text_embedding(preprocess, encoder)
    signature = embedding.__call__.get_concrete_function(_texts("text"), training=False)
    options = tf.saved_model.SaveOptions(experimental_debug_stripper=True)
    with part_folder(folder.parent, None) as part:
        tf.saved_model.save(encoder, str(part / "encoder"), options=options)
        tf.saved_model.save(preprocess, str(part / "preprocess"), options=options)
        tf.saved_model.save(embedding, str(part / "text_embedding"), signatures=signature, options=options)
        problems = lint_saved_model(part / "text_embedding")
        if problems:
            raise ExportError("the model would not serve:\n" + "\n".join(f"  {line}" for line in problems))
        os.replace(part, folder)
    return folder


def _check(model: Any, tokenizer: Tokenizer, folder: Path, seq_len: int, pooling: str) -> None:
    special = BertPacker(tokenizer).num_special(2)
    if pooling not in POOLINGS:
        raise ExportError(f"pooling={pooling!r} is not known; use {', '.join(POOLINGS)}")
    if pooling == "pooler" and model.pooler is None:
        raise ExportError("pooling='pooler' needs a model with a pooler; use mean or first")
    if not special < seq_len <= model.max_seq_len:
        raise ExportError(
            f"seq_len={seq_len} must be above {special}, the special tokens of a pair, and at most"
            f" {model.max_seq_len}, the model's max_seq_len"
        )
    if tokenizer.vocab_size > model.vocab_size:
        raise ExportError(
            f"the tokenizer has {tokenizer.vocab_size} tokens and the model {model.vocab_size}; give the model's own"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(f"{folder} exists and is not an empty folder; choose another, or remove it")


def _num_token_types(model: Any) -> int:
    table = model.token_type_embedding
    return 0 if table is None else table.vocab_size


def _encoder(model: Any, *, pooling: str, normalize: bool) -> tf.train.Checkpoint:
    """The object that `encoder/` is: what it calls, and the lists that tell what is trained."""
    num_types = _num_token_types(model)

    def call(inputs: dict[str, tf.Tensor], training: bool = False) -> dict[str, Any]:
        mask = inputs["input_mask"] > 0
        features = {"token_ids": inputs["input_word_ids"], "padding_mask": mask}
        if num_types > 1:
            features["token_type_ids"] = inputs["input_type_ids"]
        if "row_seeds" in inputs:
            features["row_seeds"] = inputs["row_seeds"]
        outputs = model(features, training=training, without_head=True)
        states, pooled = outputs["hidden_states"], outputs.get("pooled")
        vector = {"pooler": lambda *_: pooled, "mean": mean_pool, "first": first_token}[pooling](states, mask)
        return {
            "sequence_output": states,
            "pooled_output": vector if pooled is None else pooled,
            # The square root of the smallest sum is 1e-12, as in PyTorch.
            "default": tf.math.l2_normalize(vector, axis=-1, epsilon=1e-24) if normalize else vector,
            "encoder_outputs": outputs["block_outputs"],
        }

    module = tf.train.Checkpoint()
    module.__call__ = function = tf.function(call, autograph=False)
    rows = {name: tf.TensorSpec([None, None], tf.int32, name=name) for name in _INPUTS}
    seeds = {"row_seeds": tf.TensorSpec([None], tf.int32, name="row_seeds")}
    for inputs, training in ((rows, False), (rows, True), ({**rows, **seeds}, True)):
        function.get_concrete_function(inputs, training=training)
    heads = (model.masked_lm_head, model.classifier, model.next_sentence)
    left_out = {id(variable) for head in heads if head is not None for variable in head.variables}
    kept = [variable for variable in model.variables if id(variable) not in left_out]
    module.variables = [variable.value for variable in kept]
    module.trainable_variables = [variable.value for variable in kept if variable.trainable]
    module.regularization_losses = []
    return module


def _preprocessor(tokenizer: Tokenizer, seq_len: int, num_token_types: int) -> tf.train.Checkpoint:
    """The object that `preprocess/` is."""
    graph_tokenizer = tokenizer.in_graph()
    packer = BertPacker(tokenizer, num_token_types=num_token_types)

    def pack(
        inputs: Sequence[tf.RaggedTensor], seq_length: int | tf.Tensor = seq_len
    ) -> dict[str, tf.Tensor]:
        return packer(inputs, seq_length)

    def tokenize(texts: tf.Tensor) -> tf.RaggedTensor:
        return graph_tokenizer.encode(texts)

    def call(texts: tf.Tensor) -> dict[str, tf.Tensor]:
        packed = packer([graph_tokenizer.encode(texts)], seq_len)
        return {name: tf.ensure_shape(x, [None, seq_len]) for name, x in packed.items()}

    module = tf.train.Checkpoint(tokenizer=graph_tokenizer)
    module.tokenize, module.bert_pack_inputs = tf.train.Checkpoint(), tf.train.Checkpoint()
    module.__call__ = tf.function(call, autograph=False, input_signature=[_texts("sentences")])
    module.tokenize.__call__ = tf.function(tokenize, autograph=False, input_signature=[_texts("sentences")])
    module.bert_pack_inputs.__call__ = packing = tf.function(pack, autograph=False)
    for ragged_rank in (1, 2):
        row = tf.RaggedTensorSpec([None] * (ragged_rank + 1), tf.int32)
        for segments in ([row], [row, row]):
            packing.get_concrete_function(segments, seq_length=tf.TensorSpec([], tf.int32))
    return module


def _text_embedding(preprocess: tf.train.Checkpoint, encoder: tf.train.Checkpoint) -> tf.train.Checkpoint:
    """The object that `text_embedding/` is: the other two, one after the other."""

    def call(text: tf.Tensor, training: bool = False) -> tf.Tensor:
        return encoder.__call__(preprocess.__call__(text), training=training)["default"]

    module = tf.train.Checkpoint(tokenizer=preprocess.tokenizer)
    module.__call__ = function = tf.function(call, autograph=False)
    for training in (False, True):
        function.get_concrete_function(_texts("text"), training=training)
    module.variables, module.trainable_variables = encoder.variables, encoder.trainable_variables
    module.regularization_losses = []
    return module


def _texts(name: str) -> tf.TensorSpec:
    return tf.TensorSpec([None], tf.string, name=name)

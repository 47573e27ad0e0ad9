"""A backbone of KerasHub under the contract of our models."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfllm.models.errors import ModelError

_INPUTS = {"token_ids", "padding_mask", "segment_ids"}
# What a backbone may call the same thing.
_NAMES = {
    "vocab_size": ("vocabulary_size", "vocab_size"),
    "num_layers": ("num_layers",),
    "num_heads": ("num_query_heads", "num_heads", "num_attention_heads"),
    "hidden_dim": ("hidden_dim",),
    "intermediate_dim": ("intermediate_dim",),
    "num_kv_heads": ("num_key_value_heads", "num_query_heads", "num_heads", "num_attention_heads"),
}
Cache = tuple[tf.Tensor, tf.Tensor]


@keras.saving.register_keras_serializable(package="tfllm")
class KerasNlpModel(keras.Model):
    """A causal or masked language model of KerasHub (`keras_nlp`).

    Its variables keep KerasHub's paths. Dropout follows from the `row_seeds` of the batch, and needs them; it is the
    same for a batch wherever and whenever it is computed, but not for other batches with the same rows.

    Generation computes the whole text again for each token: KerasHub's cache puts the new tokens of all
    rows at one place, and sees padding, so that it holds no prompts of several lengths. Fine for samples in
    training; to serve a model, convert its checkpoint to a `Decoder`.

    Args:
        preset: A preset's name, a handle such as `hf://org/name` or `kaggle://…`, or the folder of one.
        backbone: A class of `keras_hub.models`, such as LlamaBackbone, for new weights. One of both is given.
        arguments: Further arguments of the backbone.
        max_seq_len: Longest row in tokens; None is the backbone's `max_sequence_length`.
        load_weights: Take the preset's weights.

    Raises:
        ModelError: when there is no such preset or backbone, or it is no language model of text alone.

    Example:
        >>> model = KerasNlpModel(
        ...     backbone="GPT2Backbone",
        ...     arguments=dict(
        ...         vocabulary_size=300,
        ...         num_layers=2,
        ...         num_heads=2,
        ...         hidden_dim=32,
        ...         intermediate_dim=64,
        ...         max_sequence_length=64,
        ...     ),
        ... )
        >>> model({"token_ids": tf.constant([[1, 2, 3]])})["logits"].shape
        TensorShape([1, 3, 300])
    """

    reads_prompt_with = "decoder"

    def __init__(
        self,
        *,
        preset: str | None = None,
        backbone: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        max_seq_len: int | None = None,
        load_weights: bool = True,
        name: str = "keras_nlp",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        self._arguments = {
            "preset": preset,
            "backbone": backbone,
            "arguments": dict(arguments or {}),
            "max_seq_len": max_seq_len,
        }
        if (preset is None) == (backbone is None):
            raise ModelError(f"preset={preset!r} and backbone={backbone!r}: give one of both")
        settings = {**(arguments or {}), "dtype": self.dtype_policy}
        self.task = (
            _task_of_preset(preset, load_weights, settings) if preset else _new_task(backbone, settings)
        )
        self.backbone = self.task.backbone
        self._inputs = _checked_inputs(self.backbone)
        for attribute, names in _NAMES.items():
            setattr(self, attribute, _first_attribute(self.backbone, names))
        # What estimates of work and memory read.
        self.head_dim = getattr(self.backbone, "head_dim", None) or self.hidden_dim // (self.num_heads or 1)
        self.tie_embeddings = not any("reverse_embeddings" in v.path for v in self.backbone.weights)
        self.gated = any("gat" in variable.path for variable in self.backbone.weights)
        self.remat, self.attention_block_size = "none", None
        self.causal = isinstance(self.task, _keras_hub().models.CausalLM)
        longest = _first_attribute(self.backbone, ("max_sequence_length",))
        self.max_seq_len = min(max_seq_len or longest or 0, longest or max_seq_len or 0) or None
        self.built = True

    @property
    def variables(self) -> list[keras.Variable]:
        """Weights; not the states of KerasHub's random numbers, which `row_seeds` replace."""
        return self.weights

    def build(self, input_shape=None):
        """Does nothing: the task was built when it was made."""

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments; weights are not loaded from the preset again."""
        return {**super().get_config(), **self._arguments, "load_weights": False}

    def call(self, features: dict[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """Runs whole rows.

        Args:
            features: `token_ids` int32 [B, T]; optional `padding_mask` bool [B, T]; `token_type_ids` int32 [B, T]
                (default 0) where the backbone takes them; `row_seeds` int32 [B], without which nothing is dropped;
                `segment_ids` int32 [B, T] of one document a row, 0 in padding, and then the `positions` that follow.
            training: Apply dropout.

        Returns:
            `hidden_states` float [B, T, D], `logits` float32 [B, T, V], and where the backbone has a pooler
            `pooled` float [B, D]. In a graph, logits that nobody reads cost nothing.

        Raises:
            ValueError: when a feature cannot be honoured.
            tf.errors.InvalidArgumentError: when a row holds several documents; not under XLA, which checks nothing.
        """
        row_seeds = features.get("row_seeds") if training else None
        inputs = self._backbone_inputs(features)
        # Looked for here, as Keras would take an attribute for weights of this model.
        seed_states = [] if row_seeds is None else _seed_states(self.task)
        if not seed_states:
            outputs = self.backbone(inputs, training=False)
        else:
            with keras.StatelessScope(state_mapping=_seeded(seed_states, row_seeds)):
                outputs = self.backbone(inputs, training=True)
        if not isinstance(outputs, dict):
            outputs = {"sequence_output": outputs}
        hidden_states = outputs["sequence_output"]
        named = {"hidden_states": hidden_states, "logits": self.logits(hidden_states)}
        return {**named, "pooled": outputs["pooled_output"]} if "pooled_output" in outputs else named

    def logits(self, hidden_states: tf.Tensor) -> tf.Tensor:
        """Takes hidden states, float [B, T, D], to the vocabulary, float32 [B, T, V]; with the soft cap, if any."""
        if self.causal:
            logits = self.backbone.token_embedding(hidden_states, reverse=True)
        else:
            shape = tf.shape(hidden_states)
            places = tf.tile(tf.range(shape[1])[None, :], [shape[0], 1])
            logits = self.task.masked_lm_head(hidden_states, mask_positions=places)
        return tf.ensure_shape(tf.cast(logits, tf.float32), [None, None, self.vocab_size])

    def decoder_prompt(self, token_ids: tf.Tensor, padding_mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """What generated tokens follow: the prompt itself."""
        if not self.causal:
            raise ModelError(f"{type(self.task).__name__} predicts masked tokens and cannot continue a text")
        return token_ids, padding_mask

    def room_after(self, prompt_length: int) -> int | None:
        """How many tokens can be generated after a prompt of that many; None is any number."""
        return None if self.max_seq_len is None else self.max_seq_len - prompt_length

    def prefill(
        self, token_ids: tf.Tensor, padding_mask: tf.Tensor, num_slots: int | tf.Tensor
    ) -> tuple[tf.Tensor, Cache]:
        """As `Decoder.prefill`; the cache is the text so far, from the left, int32 [B, S], and its length [B]."""
        order = tf.argsort(tf.cast(~padding_mask, tf.int32), axis=1, stable=True)
        tokens = tf.gather(tf.where(padding_mask, token_ids, 0), order, batch_dims=1)
        tokens = tf.pad(tokens, [[0, 0], [0, num_slots - tf.shape(tokens)[1]]])
        lengths = tf.reduce_sum(tf.cast(padding_mask, tf.int32), axis=1)
        return self._last_states(tokens, lengths), (tokens, lengths)

    def decode_step(
        self, token_ids: tf.Tensor, positions: tf.Tensor, slot: tf.Tensor, slot_mask: tf.Tensor, cache: Cache
    ) -> tuple[tf.Tensor, Cache]:
        """As `Decoder.decode_step`, over the whole text."""
        tokens, _ = cache
        lengths = positions[:, 0] + 1
        tokens = tf.where(tf.range(tf.shape(tokens)[1])[None, :] == positions, token_ids, tokens)
        return self._last_states(tokens, lengths), (tokens, lengths)

    def _last_states(self, tokens: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        """Hidden states of each row's last token, float [B, 1, D]."""
        mask = tf.range(tf.shape(tokens)[1])[None, :] < lengths[:, None]
        states = self.backbone(
            self._backbone_inputs({"token_ids": tokens, "padding_mask": mask}), training=False
        )
        return tf.gather(states, lengths[:, None] - 1, batch_dims=1)

    def _backbone_inputs(self, features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        kind = type(self.backbone).__name__
        token_ids, types = features["token_ids"], features.get("token_type_ids")
        segment_ids, mask = features.get("segment_ids"), features.get("padding_mask")
        if types is not None and "segment_ids" not in self._inputs:
            raise ValueError(f"{kind} tells no kinds of tokens apart; leave token_type_ids out")
        if segment_ids is not None:
            rule = f"{kind} sees whole rows, and takes no segment_ids of several documents; write data.packing=false"
            with tf.control_dependencies([tf.debugging.assert_less_equal(segment_ids, 1, rule)]):
                mask = segment_ids > 0
        elif "positions" in features:
            raise ValueError(f"{kind} counts positions itself; leave positions out")
        given = {
            "token_ids": token_ids,
            "padding_mask": tf.ones_like(token_ids, tf.bool) if mask is None else mask,
            "segment_ids": tf.zeros_like(token_ids) if types is None else types,
        }
        return {name: given[name] for name in self._inputs}


def _keras_hub() -> Any:
    import keras_hub  # takes seconds

    return keras_hub


def _task_of_preset(preset: str, load_weights: bool, settings: dict[str, Any]) -> Any:
    models = _keras_hub().models
    kind = None
    try:
        # Reads the preset's config only.
        bare = models.Backbone.from_preset(preset, load_weights=False, **settings)
        kind = _task_class(type(bare))
        return kind.from_preset(preset, load_weights=load_weights, preprocessor=None, **settings)
    except ModelError:
        raise
    except Exception as error:  # of any kind: of the network, of files, of arguments
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"preset={preset!r} cannot be loaded ({reason}); without a network, download the preset elsewhere and give"
            " its folder"
        ) from error


def _new_task(backbone: str | None, settings: dict[str, Any]) -> Any:
    models = _keras_hub().models
    cls = getattr(models, str(backbone), None)
    if not (inspect.isclass(cls) and issubclass(cls, models.Backbone)):
        known = sorted(kind.backbone_cls.__name__ for kind in _task_classes())
        raise ModelError(f"backbone={backbone!r} is not one of KerasHub's; there are {', '.join(known)}")
    kind = _task_class(cls)
    try:
        return kind(backbone=cls(**settings), preprocessor=None)
    except (TypeError, ValueError) as error:
        given = {name: value for name, value in settings.items() if name != "dtype"}
        raise ModelError(f"{backbone} cannot be made with {given}: {error}") from error


def _task_classes() -> list[Any]:
    models = _keras_hub().models
    kinds: list[Any] = [kind for kind in vars(models).values() if inspect.isclass(kind)]
    found = [kind for kind in kinds if issubclass(kind, (models.CausalLM, models.MaskedLM))]
    return [kind for kind in found if kind.backbone_cls is not None]


def _task_class(backbone: type) -> Any:
    for kind in _task_classes():
        if kind.backbone_cls is backbone:
            return kind
    known = sorted(kind.backbone_cls.__name__ for kind in _task_classes())
    raise ModelError(
        f"{backbone.__name__} has neither a causal nor a masked language model in KerasHub; those that have are"
        f" {', '.join(known)}"
    )


def _checked_inputs(backbone: Any) -> list[str]:
    inputs = list(backbone.input)
    extra = sorted({*inputs} - _INPUTS)
    if extra:
        raise ModelError(f"{type(backbone).__name__} also takes {', '.join(extra)}; use one of text alone")
    return inputs


def _first_attribute(thing: Any, names: tuple[str, ...]) -> Any:
    return next((getattr(thing, name) for name in names if hasattr(thing, name)), None)


def _seed_states(task: Any) -> list[keras.Variable]:
    weights = {id(variable) for variable in task.weights}
    return [v for v in task.variables if id(v) not in weights and v.path.endswith("seed_generator_state")]


def _seeded(states: list[keras.Variable], row_seeds: tf.Tensor) -> list[tuple[keras.Variable, tf.Tensor]]:
    """A state for each generator, that follows from the rows of the batch and the generator's number."""
    first = tf.cast(row_seeds[0], tf.int64)
    return [
        (state, tf.cast(tf.stack([first, tf.constant(i, tf.int64)]), state.dtype))
        for i, state in enumerate(states)
    ]

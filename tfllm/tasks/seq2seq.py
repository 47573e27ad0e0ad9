"""Write a target to a source: translate, summarize, answer in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import tensorflow as tf

from tfllm.config.template import split_template
from tfllm.data.record import Record
from tfllm.evaluation.metrics import perplexity
from tfllm.evaluation.predictions import Prediction
from tfllm.evaluation.texts import METRICS, signatures, text_metrics
from tfllm.tasks.examples.prompt import SOURCE, Prompt
from tfllm.tasks.examples.source_record import targets_of
from tfllm.tasks.examples.source_target import SourceTarget
from tfllm.tasks.vocabulary_loss import cross_entropy_sum, evaluated_sums

Features = dict[str, tf.Tensor]

WRITTEN = "written"


class Seq2Seq:
    """Cross-entropy of a target's tokens and its end, as a decoder writes them.

    An encoder-decoder reads the source with its encoder. A decoder reads it in a template, and learns what follows it;
    of the prompt nothing is learned.

    Args:
        tokenizer: The tokenizer.
        template: A text around `{source}`; None is the source alone.
        label_smoothing: Share of each target that goes to all tokens alike (Szegedy et al. 2016), as torch has it.
        on_too_long: As in `SourceTarget`; None cuts the source.
        decoder_start_id: What an encoder-decoder's targets begin behind; None is a decoder.
        loss_chunk_tokens: As in `CausalLM`.
    """

    coefficients: ClassVar[Mapping[str, float]] = {"loss": 1.0}
    metric_modes: ClassVar[Mapping[str, str]] = {
        "loss": "min",
        "perplexity": "min",
        "token_accuracy": "max",
        **dict.fromkeys(METRICS, "max"),
    }
    of_examples: ClassVar[Sequence[str]] = METRICS

    def __init__(
        self,
        *,
        tokenizer: Any,
        template: str | None = None,
        label_smoothing: float = 0.0,
        on_too_long: str | None = None,
        decoder_start_id: int | None = None,
        loss_chunk_tokens: int | None = None,
    ):
        before, behind = ("", "") if template is None else split_template(template, SOURCE)
        self.decoder_start_id = decoder_start_id
        self.two_sides = decoder_start_id is not None
        self.prompt = Prompt(
            tokenizer,
            before=before,
            behind=behind,
            prefix=tokenizer.prefix_ids,
            suffix=tokenizer.suffix_ids if self.two_sides else (),
        )
        self.label_smoothing = label_smoothing
        self.on_too_long = on_too_long or "cut_source"
        self.loss_chunk_tokens = loss_chunk_tokens

    @property
    def aligned(self) -> Mapping[str, str]:
        """The side of each feature that `features` adds and that goes with tokens, [B, T, …]."""
        side = "decoder_" if self.two_sides else ""
        added = ("decoder_token_ids", "targets", "loss_weights") if self.two_sides else ("loss_weights",)
        return dict.fromkeys(added, side)

    def examples_of(self, tokenizer: Any, *, seq_len: int, packing: bool) -> SourceTarget:
        """What tokenises sources and targets."""
        return SourceTarget(
            tokenizer,
            seq_len=seq_len,
            packing=packing,
            prompt=self.prompt,
            two_sides=self.two_sides,
            on_too_long=self.on_too_long,
        )

    def features(self, rows: Features) -> Features:
        """What the decoder reads, `targets`, and `loss_weights`, the weight of its record for each target token."""
        side = "decoder_" if self.two_sides else ""
        segment_ids = rows[f"{side}segment_ids"]
        weights = tf.pad(tf.where(rows["example_ids"] >= 0, rows["weights"], 0.0), [[0, 0], [1, 0]])
        weights = tf.gather(weights, segment_ids, batch_dims=1)
        if not self.two_sides:
            return {**rows, "loss_weights": weights * tf.cast(rows["learned"], tf.float32)}
        targets = rows["decoder_target_ids"]
        begins = tf.pad(segment_ids[:, 1:] != segment_ids[:, :-1], [[0, 0], [1, 0]], constant_values=True)
        before = tf.pad(targets[:, :-1], [[0, 0], [1, 0]])
        return {
            **{name: feature for name, feature in rows.items() if name != "decoder_target_ids"},
            "decoder_token_ids": tf.where(begins, self.decoder_start_id, before),
            "targets": targets,
            "loss_weights": weights,
        }

    def weights(self, features: Features) -> Features:
        """The sum of `loss_weights`, float32 scalar."""
        return {"loss": tf.reduce_sum(features["loss_weights"])}

    def loss(self, model: Any, features: Features, outputs: Features) -> Features:
        """The sum of losses in nats, float32 scalar.

        Args:
            model: The model, for its `logits`.
            features: As `features` makes them.
            outputs: What the model returned for them; only `hidden_states` are read.
        """
        loss = cross_entropy_sum(
            model.logits,
            outputs["hidden_states"],
            features["targets"],
            features["loss_weights"],
            chunk_tokens=self.loss_chunk_tokens,
            label_smoothing=self.label_smoothing,
        )
        return {"loss": loss}

    def evaluation_sums(self, model: Any, features: Features, outputs: Features) -> Features:
        """Sums over a batch, float32 scalars: `loss` (not smoothed), `weight`, and `right`, the likeliest tokens."""
        loss, right = evaluated_sums(
            model.logits,
            outputs["hidden_states"],
            features["targets"],
            features["loss_weights"],
            chunk_tokens=self.loss_chunk_tokens,
        )
        return {"loss": loss, "weight": tf.reduce_sum(features["loss_weights"]), "right": right}

    def predictions(self, model: Any, features: Features, outputs: Features) -> dict[str, Features]:
        """None: texts are written one token after another, see `prompt_ids` and `told`."""
        return {}

    def prompt_ids(self, source: str, room: int | None = None) -> list[int]:
        """The ids that a target is written to; the end of the source is left out where they are more than `room`."""
        [ids] = self.prompt.batch([source])
        if room is None or len(ids) <= room:
            return ids
        return self.prompt.cut(source, room) or ids

    def prompt_of(self, record: Record, room: int | None = None) -> list[int]:
        """The same of a record."""
        return self.prompt_ids(record.text(SOURCE), room)

    def told(self, text: str) -> str:
        """What is written, of what was generated."""
        return text.strip()

    def joined(self, predictions: Sequence[Prediction]) -> Sequence[Prediction]:
        """As they are."""
        return predictions

    def signatures(self, predictions: Sequence[Prediction]) -> dict[str, str]:
        """How BLEU and chrF were computed, in the words of sacrebleu."""
        return signatures([targets_of(each.record) for each in predictions])

    def evaluation_metrics(
        self, sums: Mapping[str, float], predictions: Sequence[Prediction] = ()
    ) -> dict[str, float]:
        """Metrics of a whole split: `loss` (nats a token written), `perplexity`, `token_accuracy`; and of the texts
        that were written, if any were, those of `tfllm.evaluation.texts`."""
        loss = sums["loss"] / sums["weight"]
        metrics = {
            "loss": loss,
            "perplexity": perplexity(loss),
            "token_accuracy": sums["right"] / sums["weight"],
            "tokens": sums["weight"],
        }
        if predictions:
            written = [str(each.values[WRITTEN]) for each in predictions]
            metrics |= text_metrics(written, [targets_of(each.record) for each in predictions])
        return metrics

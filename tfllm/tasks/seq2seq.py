"""Write a target to a source: translate, summarize, answer in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import tensorflow as tf

from tfllm.config.template import split_template
from tfllm.data.record import Record
from tfllm.evaluation.predictions import Prediction
from tfllm.evaluation.texts import METRICS, signatures, text_metrics
from tfllm.tasks.examples.prompt import SOURCE, Prompt
from tfllm.tasks.examples.source_record import targets_of
from tfllm.tasks.examples.source_target import SourceTarget
from tfllm.tasks.target_tokens import TargetTokens, weights_of_tokens, with_learned_weights

Features = dict[str, tf.Tensor]

WRITTEN = "written"


class Seq2Seq(TargetTokens):
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

    metric_modes: ClassVar[Mapping[str, str]] = {
        **TargetTokens.metric_modes,
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
        super().__init__(loss_chunk_tokens=loss_chunk_tokens, label_smoothing=label_smoothing)
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
        self.on_too_long = on_too_long or "cut_source"

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
        if not self.two_sides:
            return with_learned_weights(rows)
        segment_ids = rows["decoder_segment_ids"]
        weights = weights_of_tokens(rows, segment_ids)
        targets = rows["decoder_target_ids"]
        begins = tf.pad(segment_ids[:, 1:] != segment_ids[:, :-1], [[0, 0], [1, 0]], constant_values=True)
        before = tf.pad(targets[:, :-1], [[0, 0], [1, 0]])
        return {
            **{name: feature for name, feature in rows.items() if name != "decoder_target_ids"},
            "decoder_token_ids": tf.where(begins, self.decoder_start_id, before),
            "targets": targets,
            "loss_weights": weights,
        }

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

    def signatures(self, predictions: Sequence[Prediction]) -> dict[str, str]:
        """How BLEU and chrF were computed, in the words of sacrebleu."""
        return signatures([targets_of(each.record) for each in predictions])

    def evaluation_metrics(
        self, sums: Mapping[str, float], predictions: Sequence[Prediction] = ()
    ) -> dict[str, float]:
        """Metrics of a whole split: `loss` (nats a token written), `perplexity`, `token_accuracy`; and of the texts
        that were written, if any were, those of `tfllm.evaluation.texts`."""
        metrics = super().evaluation_metrics(sums)
        if predictions:
            written = [str(each.values[WRITTEN]) for each in predictions]
            metrics |= text_metrics(written, [targets_of(each.record) for each in predictions])
        return metrics

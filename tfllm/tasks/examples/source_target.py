"""Records of a source and a target → what an encoder-decoder reads and writes, or a decoder goes on with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfllm.data.errors import DataError
from tfllm.data.examples import Example, Packer, WholeSegments
from tfllm.data.layout import Feature, RowLayout
from tfllm.data.record import Record
from tfllm.tasks.examples.labels import weight_of
from tfllm.tasks.examples.learned_tokens import OF_SEGMENTS, learned_arrays, learned_layout
from tfllm.tasks.examples.prompt import SOURCE, Prompt
from tfllm.tasks.examples.source_record import has_both, targets_of
from tfllm.tasks.examples.text_segments import EXAMPLES_A_ROW

_SHOWN = 60  # characters of a text that is shown


class SourceTarget:
    """Tokenises a source in its prompt, and the target that is written to it, which is never cut.

    A row of two sides, `encoder_` and `decoder_`, holds `encoder_token_ids` and `decoder_target_ids`, a target with the
    end behind it. A row of one side holds `token_ids` and `targets`, each next token, and `learned`, 1 for those of the
    target and its end. For each segment there are `weights` and `example_ids`.

    Args:
        tokenizer: Anything with `encode_batch`, `prefix_ids`, `suffix_ids`, `eos_id`, `pad_id` and `vocab_size`.
        seq_len: Tokens of each side, at most.
        packing: Several examples to a row.
        prompt: Makes prompts.
        two_sides: An encoder reads the prompt, and a decoder writes the target.
        on_too_long: cut_source leaves out its end, drop the record, and error refuses it.
    """

    split_column = SOURCE
    fewest_documents = 1

    def __init__(
        self,
        tokenizer: Any,
        *,
        seq_len: int,
        packing: bool,
        prompt: Prompt,
        two_sides: bool,
        on_too_long: str = "cut_source",
    ):
        self.tokenizer, self.seq_len, self.packing = tokenizer, seq_len, packing
        self.prompt, self.two_sides, self.on_too_long = prompt, two_sides, on_too_long
        self.eos_id = int(tokenizer.eos_id)
        if two_sides:
            ids: dict[str, Any] = {"fill": tokenizer.pad_id, "limit": tokenizer.vocab_size}
            sides: tuple[tuple[str, int], ...] = (("encoder_", seq_len), ("decoder_", seq_len))
            of_tokens = (
                Feature("encoder_token_ids", "encoder_", **ids),
                Feature("encoder_segment_ids", "encoder_"),
                Feature("decoder_target_ids", "decoder_", **ids),
                Feature("decoder_segment_ids", "decoder_"),
            )
            segments = EXAMPLES_A_ROW if packing else 1
            self.layout = RowLayout(sides, (*of_tokens, *OF_SEGMENTS), segments=segments)
        else:
            self.layout = learned_layout(tokenizer, seq_len=seq_len, packing=packing)

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the examples depend on, beside records and tokenizer."""
        return {
            "examples": "source_target 1",
            "around": [
                *self.prompt.settings,
                self.tokenizer.prefix_ids,
                self.tokenizer.suffix_ids,
                self.eos_id,
            ],
            "two_sides": self.two_sides,
            "seq_len": self.seq_len,
            "packing": self.packing,
            "on_too_long": self.on_too_long,
        }

    def keeps(self, record: Record) -> bool:
        """Return whether neither text is blank."""
        return has_both(record)

    def examples(self, records: Sequence[Record], numbers: Sequence[int]) -> Iterator[Example]:
        """Yield each record, but for those that are dropped.

        Raises:
            DataError: A record is too long, and is not to be cut.
        """
        sources = [record.text(SOURCE) for record in records]
        targets = [targets_of(record)[0] for record in records]
        prompts = self.prompt.batch(sources)
        written = self._written(sources, targets, prompts)
        for number, record, source, target, prompt, end in zip(
            numbers, records, sources, targets, prompts, written, strict=True
        ):
            room = self.seq_len if self.two_sides else self.seq_len + 1 - len(end)
            is_cut = len(prompt) > room or len(end) > self.seq_len
            if is_cut:
                found = self._fitted(record, source, prompt, end, room)
                if found is None:
                    continue
                prompt = found
            if self.two_sides:
                arrays = self._sides(prompt, end)
            else:
                arrays = learned_arrays([*prompt, *end], [False] * len(prompt) + [True] * len(end))
            arrays["weights"] = np.array([weight_of(record)], np.float32)
            arrays["example_ids"] = np.array([number], np.int32)
            tokens = len(prompt) + len(end) - (not self.two_sides)
            size = len(source.encode()) + len(target.encode())
            yield Example(number, arrays, tokens, size, is_cut=is_cut)

    def packer(self) -> Packer:
        """Return what puts examples into rows."""
        return WholeSegments(self.layout, packing=self.packing)

    def _written(
        self, sources: Sequence[str], targets: Sequence[str], prompts: Sequence[Sequence[int]]
    ) -> list[list[int]]:
        """The ids of each target with the end behind it."""
        if self.two_sides:  # framed as a text by itself, as transformers has it
            before, behind = (
                list(map(int, ids)) for ids in (self.tokenizer.prefix_ids, self.tokenizer.suffix_ids)
            )
            if behind[-1:] != [self.eos_id]:
                behind.append(self.eos_id)
            return [[*before, *ids, *behind] for ids in self.tokenizer.encode_batch(targets)]
        gap = self.prompt.gap
        ends = [target if target[:1].isspace() else gap + target for target in targets]
        texts = [self.prompt.text(source) for source in sources]
        wholes = self.tokenizer.encode_batch([text + end for text, end in zip(texts, ends, strict=True)])
        found = []
        for prompt, end, whole in zip(prompts, ends, wholes, strict=True):
            own, ids = list(prompt[len(self.prompt.prefix) :]), whole.tolist()
            # A prompt is read alone when its target is not known: so its ids are those that it has alone.
            ids = ids[len(own) :] if ids[: len(own)] == own else self.tokenizer.encode(end)
            found.append([*ids, self.eos_id])
        return found

    def _fitted(
        self, record: Record, source: str, prompt: Sequence[int], end: Sequence[int], room: int
    ) -> list[int] | None:
        """A prompt that leaves room for the target; None where the record is left out."""
        if self.on_too_long == "cut_source":
            return self.prompt.cut(source, room) if room > 0 and len(end) <= self.seq_len else None
        if self.on_too_long == "error":
            words = f"{len(prompt)} tokens of the source and {len(end)} of the target"
            raise DataError(
                f"{record.at}{source[:_SHOWN]!r} is too long: {words}, and data.seq_len={self.seq_len}; raise it, or"
                " write data.on_too_long: cut_source or drop"
            )
        return None

    @staticmethod
    def _sides(prompt: Sequence[int], end: Sequence[int]) -> dict[str, Any]:
        return {
            "encoder_token_ids": np.array(prompt, np.int32),
            "decoder_target_ids": np.array(end, np.int32),
        }

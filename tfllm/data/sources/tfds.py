"""TensorFlow Datasets that are already prepared on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tfllm.data.errors import DataError
from tfllm.data.record import TEXT, Record
from tfllm.data.sources.source import TextSource, settings_digest

_SENTENCES = {"text": "sentence1", "text_pair": "sentence2"}
_PREMISE = {"text": "premise", "text_pair": "hypothesis"}
# What data sets call the columns of a task, by name or name/config; others call them as we do (imdb_reviews, squad).
_COLUMNS = {
    "glue/cola": {"text": "sentence"},
    "glue/sst2": {"text": "sentence"},
    **dict.fromkeys(("glue/mrpc", "glue/rte", "glue/stsb", "glue/wnli", "paws_wiki"), _SENTENCES),
    **dict.fromkeys(("glue/mnli", "snli", "multi_nli"), _PREMISE),
    "glue/qqp": {"text": "question1", "text_pair": "question2"},
    "glue/qnli": {"text": "question", "text_pair": "sentence"},
    "ag_news_subset": {"text": "description"},
    "cnn_dailymail": {"source": "article", "target": "highlights"},
    "billsum": {"source": "text", "target": "summary"},
    "samsum": {"source": "dialogue", "target": "summary"},
    "xsum": {"source": "document", "target": "summary"},
    "gigaword": {"source": "document", "target": "summary"},
}


class TfdsSource(TextSource):
    """Any TensorFlow Datasets data set with text, read in the order it was written. Classes are told by their names.

    TensorFlow is imported on the first use, not with the module. Nothing is ever downloaded.

    Args:
        name: A tfds name: `name`, `name/config` or `name/config:version`.
        split: A tfds split or slice, e.g. `"train"` or `"train[:90%]"`.
        text_key: The text feature; a dotted path reaches into nested features (`"translation.en"`).
        columns: The feature of each column, by the column's name; other features keep their names. Those of data sets
            that are known need not be named.
        data_dir: Where it was prepared; `None` is the tfds default.
        section: What messages call the settings: the section of the config.

    Raises:
        DataError: (from every method) the data set, its version or its split is unknown or not prepared, or
            the feature is missing or not text.
    """

    def __init__(
        self,
        name: str,
        split: str = "train",
        text_key: str = "text",
        data_dir: str | None = None,
        *,
        columns: Mapping[str, str] | None = None,
        section: str = "data.train",
    ):
        self.section = section
        self.name = name
        self.split = split
        self.text_key = text_key
        self.data_dir = data_dir
        self.columns = dict(columns or {})

    def records(self) -> Iterator[Record]:
        """Yield a record an example: texts, numbers, names of classes, and lists of these."""
        builder = self._builder()
        features, columns = builder.info.features, self._columns(builder)
        if self.text_key != TEXT:
            columns = {TEXT: self.text_key, **columns}
        for number, example in enumerate(self._read(builder).as_numpy_iterator()):
            place = f"{self.name} {self.split}: example {number}"
            values = {name: _plain(value, features[name], place) for name, value in example.items()}
            named = {ours: _at(values, theirs) for ours, theirs in columns.items()}
            yield Record({**values, **named}, place, f"{self.section}.columns")

    def documents(self) -> Iterator[str]:
        """Yield the text feature of each example."""
        dataset = self._read(self._builder()).map(lambda example: _at(example, self.text_key))
        for number, example in enumerate(dataset.as_numpy_iterator()):
            try:
                yield example.decode("utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{self.name} split {self.split!r}: example {number} is not UTF-8; check text_key"
                ) from error

    def describe(self) -> str:
        """Return the data set's full name, split and key."""
        return f"tfds {self._builder().info.full_name} split {self.split!r}, key {self.text_key!r}"

    def fingerprint(self) -> str:
        """Return a digest of the data set's name, config, version, split, size and key."""
        builder = self._builder()
        # A local builder may be prepared again from other files under one version: its size mostly tells.
        splits = builder.info.splits
        sizes = {name: [info.num_examples, info.num_bytes] for name, info in splits.items()}
        return settings_digest(
            type="tfds",
            name=builder.info.full_name,
            split=self.split,
            text_key=self.text_key,
            sizes=sizes,
            **({"columns": columns} if (columns := self._columns(builder)) else {}),
        )

    def _read(self, builder: Any) -> Any:
        import tensorflow_datasets as tfds

        # One file at a time: the order then does not depend on how reading is interleaved.
        config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
        return builder.as_dataset(split=self.split, shuffle_files=False, read_config=config)

    def _columns(self, builder: Any) -> dict[str, str]:
        config = builder.builder_config
        known = _COLUMNS.get(
            f"{builder.name}/{config.name}" if config else "", _COLUMNS.get(builder.name, {})
        )
        return {**known, **self.columns}

    def _builder(self) -> Any:
        import tensorflow_datasets as tfds

        try:
            builder = tfds.builder(self.name, data_dir=self.data_dir, try_gcs=False)
        except (tfds.core.DatasetNotFoundError, AssertionError, ValueError, ImportError) as error:
            first_line = str(error).strip().split("\n")[0]
            raise DataError(
                f"{self.section}.name={self.name!r} is no data set that tfds can build or finds under "
                f"{self.section}.data_dir={self.data_dir!r} ({first_line}); see `tfds.list_builders()`"
            ) from error
        if not builder.is_prepared():
            raise DataError(
                f"{self.section}.name={self.name!r} is not prepared under {builder.data_dir}; run "
                f"`tfds build {self.name}` first, or set {self.section}.data_dir to where it is"
            )
        self._check_split(builder)
        self._check_columns(builder.info.features)
        if self.text_key != TEXT or not self._columns(builder):
            self._check_feature(builder.info.features)
        return builder

    def _check_split(self, builder: Any) -> None:
        try:
            builder.info.splits[self.split]
        except (KeyError, ValueError) as error:
            there = ", ".join(sorted(builder.info.splits))
            raise DataError(
                f"{self.section}.split={self.split!r} is not in {self.name}; it has {there}"
            ) from error

    def _check_columns(self, features: Any) -> None:
        keys = sorted(_keys(features))
        for ours, theirs in self.columns.items():
            if theirs not in keys:
                raise DataError(
                    f"{self.section}.columns.{ours}={theirs!r} is not a feature of {self.name}; those are"
                    f" {', '.join(map(repr, keys))}"
                )

    def _check_feature(self, features: Any) -> None:
        keys = sorted(_text_keys(features))
        if self.text_key not in keys:
            raise DataError(
                f"{self.section}.text_key={self.text_key!r} is not a text feature of {self.name}; "
                f"those are {', '.join(map(repr, keys)) or 'none'}"
            )


def _text_keys(features: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted path of every scalar string feature."""
    import tensorflow as tf

    for key, feature in features.items():
        if hasattr(feature, "items"):
            yield from _text_keys(feature, f"{prefix}{key}.")
        elif feature.dtype == tf.string and feature.shape == ():
            yield f"{prefix}{key}"


def _keys(features: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted path of every feature."""
    for key, feature in features.items():
        yield f"{prefix}{key}"
        if hasattr(feature, "items"):
            yield from _keys(feature, f"{prefix}{key}.")


def _at(example: Mapping[str, Any], path: str) -> Any:
    """What lies at a dotted path."""
    for key in path.split("."):
        example = example[key]
    return example


def _plain(value: Any, feature: Any, place: str) -> Any:
    """A feature's value in Python's types."""
    if isinstance(value, dict):
        inner = getattr(feature, "feature", feature)  # of a sequence of several
        return {name: _plain(each, inner[name], place) for name, each in value.items()}
    if hasattr(feature, "int2str") and np.ndim(value) == 0:
        if value < 0:
            raise DataError(f"{place} has no label, as in the test splits of GLUE; name another split")
        return feature.int2str(int(value))
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        inner = getattr(feature, "feature", None)
        return [_plain(each, inner, place) for each in value]
    return value.item() if isinstance(value, np.generic) else value

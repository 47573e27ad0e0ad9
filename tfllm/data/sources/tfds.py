"""TensorFlow Datasets that are already prepared on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tfllm.data.errors import DataError
from tfllm.data.sources.source import TextSource, settings_digest


class TfdsSource(TextSource):
    """Any TensorFlow Datasets data set with a text feature, read in the order it was written.

    TensorFlow is imported on the first use, not with the module. Nothing is ever downloaded.

    Args:
        name: A tfds name: `name`, `name/config` or `name/config:version`.
        split: A tfds split or slice, e.g. `"train"` or `"train[:90%]"`.
        text_key: The text feature; a dotted path reaches into nested features (`"translation.en"`).
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
        section: str = "data.train",
    ):
        self.section = section
        self.name = name
        self.split = split
        self.text_key = text_key
        self.data_dir = data_dir

    def documents(self) -> Iterator[str]:
        """Yield the text feature of each example."""
        import tensorflow_datasets as tfds

        builder = self._builder()
        # One file at a time: the order then does not depend on how reading is interleaved.
        config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
        dataset = builder.as_dataset(split=self.split, shuffle_files=False, read_config=config)
        for number, example in enumerate(dataset.map(self._feature).as_numpy_iterator()):
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
        )

    def _feature(self, example: Mapping[str, Any]) -> Any:
        for key in self.text_key.split("."):
            example = example[key]
        return example

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

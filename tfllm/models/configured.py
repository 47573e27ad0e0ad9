"""A model that remembers the arguments it was made of."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import keras

_PARTS = "stack"  # since the blocks of a model are those of its trunk


class ConfiguredModel(keras.Model):
    """A Keras model whose config is its constructor's own arguments, whatever they come to be.

    Args:
        arguments: `locals()`, as the constructor begins.
        **kwargs: Those of `keras.Model`.
    """

    def __init__(self, arguments: Mapping[str, Any], **kwargs):
        super().__init__(**kwargs)
        self._arguments = {
            key: value for key, value in arguments.items() if key not in ("self", "kwargs", "__class__")
        }

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, for Keras serialization."""
        return {**super().get_config(), **self._arguments}

    def get_build_config(self) -> dict[str, Any]:
        """What a `.keras` file, which mirrors attributes, says of where the parts are."""
        return {"parts": _PARTS}

    def build_from_config(self, config: Mapping[str, Any]) -> None:
        """Makes every variable, where a `.keras` file has them as they are now.

        Raises:
            ValueError: when an earlier version wrote the file.
        """
        if config.get("parts") != _PARTS:
            raise ValueError(
                f"this .keras file holds the parts of {type(self).__name__} as an earlier version of tfllm had them;"
                " open it with that version and keep the model by LanguageModel.save, whose folders all versions read"
            )
        self.build()

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The constructor's keyword arguments with their defaults; `inspect.Parameter.empty` where there is none."""
        return {
            name: parameter.default
            for name, parameter in inspect.signature(cls.__init__).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        }

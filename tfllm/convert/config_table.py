"""Rows of a family's table of config keys, each read both ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

from tfllm.convert.config_reader import REQUIRED, ConfigReader
from tfllm.convert.errors import ConvertError

Arguments = dict[str, Any]
# The arguments that say how many blocks there are. Tables have rows for each block, before the files are looked at.
LAYERS = ("num_layers", "num_encoder_layers", "num_decoder_layers")
MOST_LAYERS = 4096


class ConfigRow(Protocol):
    """What a row of the table does."""

    def read(self, config: ConfigReader, arguments: Arguments) -> Arguments:
        """Arguments of our model, from the config and from what earlier rows made of it."""

    def write(self, arguments: Arguments) -> dict[str, Any]:
        """Keys of the config, from a model's arguments."""


@dataclasses.dataclass(frozen=True)
class Key:
    """One key there is one argument here.

    Args:
        theirs: The key.
        ours: The argument.
        kind: Type of the value.
        default: What the family has where the key is absent.
        words: Their words to ours, where they differ.
        null: What it has where the key is null; by default as where it is absent.
    """

    theirs: str
    ours: str
    kind: type = int
    default: Any = REQUIRED
    words: Mapping[str, str] | None = None
    null: Any = REQUIRED

    def read(self, config: ConfigReader, arguments: Arguments) -> Arguments:
        """See `ConfigRow`."""
        del arguments
        if self.kind is int:
            value = config.size(self.theirs, self.default, null=self.null)
            if self.ours in LAYERS and value > MOST_LAYERS:
                raise config.refuse(self.theirs, value, f"at most {MOST_LAYERS} blocks are")
            return {self.ours: value}
        value = config.take(self.theirs, self.kind, self.default, null=self.null)
        if self.words is not None and value not in self.words:
            raise config.refuse(self.theirs, value, f"{', '.join(self.words)} are")
        return {self.ours: value if self.words is None else self.words[value]}

    def write(self, arguments: Arguments) -> dict[str, Any]:
        """See `ConfigRow`."""
        value = arguments[self.ours]
        if self.words is not None:
            value = next((theirs for theirs, ours in self.words.items() if ours == value), None)
            if value is None:  # reading what was written shows that the family cannot say it
                return {}
        return {self.theirs: value}


@dataclasses.dataclass(frozen=True)
class Constant:
    """A key that must have one value, because the others are not implemented.

    Args:
        theirs: The key.
        value: The value.
        default: What the family has where the key is absent; by default the value.
        written: The family says it today, and not only in older files.
    """

    theirs: str
    value: Any
    default: Any = REQUIRED
    written: bool = True

    def read(self, config: ConfigReader, arguments: Arguments) -> Arguments:
        """See `ConfigRow`."""
        del arguments
        config.only(self.theirs, self.value, self.value if self.default is REQUIRED else self.default)
        return {}

    def write(self, arguments: Arguments) -> dict[str, Any]:
        """See `ConfigRow`."""
        del arguments
        return {self.theirs: self.value} if self.written else {}


@dataclasses.dataclass(frozen=True)
class Always:
    """An argument that is the same in the whole family, and which no key says.

    Args:
        ours: The argument.
        value: Its value.
    """

    ours: str
    value: Any

    def read(self, config: ConfigReader, arguments: Arguments) -> Arguments:
        """See `ConfigRow`."""
        del config, arguments
        return {self.ours: self.value}

    def write(self, arguments: Arguments) -> dict[str, Any]:
        """See `ConfigRow`."""
        del arguments
        return {}


@dataclasses.dataclass(frozen=True)
class TrainingOnly:
    """A share of values that are dropped in training: not taken over, but said, where it is not zero.

    Args:
        theirs: The key.
    """

    theirs: str

    def read(self, config: ConfigReader, arguments: Arguments) -> Arguments:
        """See `ConfigRow`."""
        del arguments
        share = config.take(self.theirs, float, 0.0)
        if share:
            config.notes.append(
                f"{self.theirs}={share:g} concerns training; set model.dropout where you want it"
            )
        return {}

    def write(self, arguments: Arguments) -> dict[str, Any]:
        """See `ConfigRow`."""
        del arguments
        return {self.theirs: 0.0}


@dataclasses.dataclass(frozen=True)
class HeadDim:
    """The width of a head: a key of its own, or the model's width divided by its heads.

    Args:
        theirs: The key; None where the family has none.
        default: What the family has where the key is absent; None divides.
    """

    theirs: str | None = "head_dim"
    default: int | None = None

    def read(self, config: ConfigReader, arguments: Arguments) -> Arguments:
        """See `ConfigRow`."""
        given = None if self.theirs is None else config.size(self.theirs, self.default)
        width, heads = arguments["hidden_dim"], arguments["num_heads"]
        if given is None and width % heads:
            raise ConvertError(
                f"{config.where}: a width of {width} must be divisible by {heads} attention heads"
            )
        return {"head_dim": given or width // heads}

    def write(self, arguments: Arguments) -> dict[str, Any]:
        """See `ConfigRow`."""
        return {} if self.theirs is None else {self.theirs: arguments["head_dim"]}

"""What a config says about rotary positions, in the words of transformers 4 and 5."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from tfllm.convert.config_reader import ConfigReader
from tfllm.convert.config_table import Arguments

_KINDS = ("default", "linear", "llama3", "yarn", "longrope")


@dataclasses.dataclass(frozen=True)
class Rope:
    """Base, share and stretching of the rotary frequencies; a `ConfigRow`.

    transformers 4 writes the base and the share beside `rope_scaling`, transformers 5 all of it in
    `rope_parameters`. Written is the older form, which both read.

    Args:
        theta: Key of the base.
        default_theta: Base where none is given.
        share: Key of the share of a head that is turned; None where the family turns all of it.
        default_share: Share where none is given.
    """

    theta: str = "rope_theta"
    default_theta: float = 10_000.0
    share: str | None = None
    default_share: float = 1.0

    def read(self, config: ConfigReader, arguments: Arguments) -> Arguments:
        """See `ConfigRow`."""
        share_key = self.share or "partial_rotary_factor"
        theta, share = config.take(self.theta, float, None), config.take(share_key, float, None)
        older, newer = config.nested("rope_scaling"), config.nested("rope_parameters")
        section = older or newer
        scaling = None
        if section is not None:
            theta = section.take("rope_theta", float, theta)
            share = section.take("partial_rotary_factor", float, share)
            scaling = read_scaling(section, arguments["max_seq_len"])
        share = self.default_share if share is None else share
        rotary_dim = int(arguments["head_dim"] * min(max(share, 0.0), 2.0))
        if self.share is None and share != 1.0:
            raise config.refuse(share_key, share, "this family turns whole heads")
        if rotary_dim % 2 or not 0 < rotary_dim <= arguments["head_dim"]:
            width = arguments["head_dim"]
            raise config.refuse(share_key, share, f"it must give an even part of a head's {width} entries")
        return {
            "positions": "rotary",
            "rotary_dim": rotary_dim,
            "rope_theta": above_zero(config, self.theta, self.default_theta if theta is None else theta),
            "rope_scaling": scaling,
        }

    def write(self, arguments: Arguments) -> dict[str, Any]:
        """See `ConfigRow`."""
        if arguments["positions"] != "rotary":
            return {}
        written = {
            self.theta: arguments["rope_theta"],
            "rope_scaling": write_scaling(arguments["rope_scaling"]),
        }
        share = arguments["rotary_dim"] / arguments["head_dim"]
        return written if self.share is None else {**written, self.share: share}


def above_zero(config: ConfigReader, key: str, theta: float) -> float:
    """The base of rotary frequencies that a key says.

    Raises:
        ConvertError: when there are no frequencies of it.
    """
    if theta <= 0:
        raise config.refuse(key, theta, "it must be above 0")
    return theta


def read_scaling(section: ConfigReader, max_seq_len: int) -> dict[str, Any] | None:
    """How the frequencies are stretched: the `rope_scaling` of `Decoder`.

    Raises:
        ConvertError: when the way is not implemented, or something about it is not known.
    """
    kind = section.take("rope_type", str, None) or section.take("type", str, "default")
    section.ignore("rope_type", "type", "rope_theta", "partial_rotary_factor")
    if kind not in _KINDS:
        raise section.refuse("rope_type", kind, f"{', '.join(_KINDS)} are")
    original = section.size("original_max_position_embeddings", max_seq_len)
    scaling = None if kind == "default" else {"type": kind, **_KNOWN[kind](section, original, max_seq_len)}
    for key, value in section.unread().items():
        raise section.refuse(key, value, f"it is not a key of rope_type {kind}")
    return scaling


def write_scaling(scaling: dict[str, Any] | None) -> dict[str, Any] | None:
    """The inverse of `read_scaling`."""
    if scaling is None:
        return None
    if scaling["type"] == "factors":
        factors = list(scaling["factors"])
        # Without an attention factor transformers computes one of its own.
        lists = {"short_factor": factors, "long_factor": factors, "attention_factor": 1.0}
        return {"rope_type": "longrope", "factor": 1.0, **lists}
    theirs = {"type": "rope_type", "original_max_seq_len": "original_max_position_embeddings"}
    return {theirs.get(key, key): value for key, value in scaling.items() if value is not None}


def _linear(section: ConfigReader, original: int, max_seq_len: int) -> dict[str, Any]:
    del original, max_seq_len
    return {"factor": _factor(section, None)}


def _llama3(section: ConfigReader, original: int, max_seq_len: int) -> dict[str, Any]:
    del max_seq_len
    low, high = section.take("low_freq_factor", float), section.take("high_freq_factor", float)
    if not 0 < low < high:
        raise section.refuse(
            "high_freq_factor", high, f"it must be greater than low_freq_factor={low}, and both above 0"
        )
    return {
        "factor": _factor(section, None),
        "original_max_seq_len": original,
        "low_freq_factor": low,
        "high_freq_factor": high,
    }


def _yarn(section: ConfigReader, original: int, max_seq_len: int) -> dict[str, Any]:
    factor = _factor(section, max_seq_len / original)
    attention_factor = section.take("attention_factor", float, None)
    scale, scale_all = section.take("mscale", float, 0.0), section.take("mscale_all_dim", float, 0.0)
    if attention_factor is None and scale and scale_all:
        attention_factor = _magnitude(factor, scale) / _magnitude(factor, scale_all)
    return {
        "factor": factor,
        "original_max_seq_len": original,
        "beta_fast": section.take("beta_fast", float, 0.0) or 32.0,
        "beta_slow": section.take("beta_slow", float, 0.0) or 1.0,
        "attention_factor": attention_factor,
        "truncate": section.take("truncate", bool, True),
    }


def _longrope(section: ConfigReader, original: int, max_seq_len: int) -> dict[str, Any]:
    """One list of factors for rows of any length; a second list, for long rows only, is not implemented."""
    del original, max_seq_len
    short, long = section.take("short_factor", list), section.take("long_factor", list)
    section.ignore("factor")
    for factor in short:
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor < math.inf:
            raise section.refuse("short_factor", factor, "numbers above 0 are")
    if short != long:
        raise section.refuse("long_factor", "…", "only the numbers of short_factor are")
    magnitude = section.take("attention_factor", float, None)
    if magnitude != 1.0:
        raise section.refuse("attention_factor", magnitude, "beside longrope only 1.0 is")
    return {"type": "factors", "factors": [float(factor) for factor in short]}


def _magnitude(factor: float, scale: float) -> float:
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1.0 else 1.0


def _factor(section: ConfigReader, default: float | None) -> float:
    value = section.take("factor", float) if default is None else section.take("factor", float, default)
    if value < 1.0:
        raise section.refuse("factor", value, "it must be at least 1")
    return value


_KNOWN = {"linear": _linear, "llama3": _llama3, "yarn": _yarn, "longrope": _longrope}

"""Paths that begin at somebody's home folder."""

from __future__ import annotations

from pathlib import Path

from tfllm.config.errors import ConfigError, Problem


def expand_home(path: str | Path, name: str, *, mend: str = "write the whole path, from / on") -> Path:
    """Puts the home folder in the place of `~` and `~somebody`.

    Args:
        path: A path, with or without one of them.
        name: What the path is called where it was written, for the message.
        mend: What to write instead.

    Raises:
        ConfigError: when there is no such home: HOME is not set and the system does not know the user, as in many
            containers, or somebody is nobody.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        rule = "begins at a home folder that the system does not know (is HOME set?)"
        raise ConfigError([Problem(name, str(path), rule, mend)], "the surroundings") from None

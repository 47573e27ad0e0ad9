"""What is wrong with a config, said all at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Problem:
    """One mistake: where it is, what stands there, which rule it breaks and how to mend it.

    Args:
        path: Dotted path of the key, e.g. `model.num_heads`.
        value: The offending value; `Problem.ABSENT` when there is none.
        rule: A phrase that continues `path=value`, e.g. `must be at least 1`.
        mend: What to write instead.
    """

    path: str
    value: Any
    rule: str
    mend: str = ""

    ABSENT = object()

    def __str__(self) -> str:
        subject = self.path if self.value is Problem.ABSENT else f"{self.path}={_show(self.value)}"
        return f"{subject} {self.rule}" + (f"; {self.mend}" if self.mend else "")


class ConfigError(ValueError):
    """A config that cannot be used. The message lists every problem, one a line."""

    def __init__(self, problems: Sequence[Problem], source: str = "the config"):
        self.problems = list(problems)
        self.source = source
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        super().__init__(f"{count} in {source}:{lines}")


def _show(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

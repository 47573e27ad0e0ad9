"""Rules for keys of the model section that say which classes a model tells apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tfllm.config.errors import Problem


def class_problems(section: Any, path: str, heads: Sequence[str]) -> Iterator[Problem]:
    """Yields problems between `head`, `num_classes`, `class_names` and `multi_label`.

    Args:
        section: The model section.
        path: Where it stands.
        heads: The heads that classify.
    """
    classifies = section.head in heads
    if classifies and section.num_classes is None:
        rule, mend = f"is required by {path}.head={section.head}", "write how many classes there are"
        yield Problem(f"{path}.num_classes", Problem.ABSENT, rule, mend)
    if section.num_classes is not None and not classifies:
        rule = f"means nothing with {path}.head={section.head}"
        mend = f"leave it out, or set {path}.head to {' or '.join(heads)}"
        yield Problem(f"{path}.num_classes", section.num_classes, rule, mend)
    if section.class_names is not None and len(section.class_names) != section.num_classes:
        rule = f"must name {path}.num_classes={section.num_classes} classes"
        yield Problem(f"{path}.class_names", list(section.class_names), rule, "give each class a name")
    if section.multi_label and (section.head != "sequence_classification" or (section.num_classes or 0) < 2):
        rule = f"needs {path}.head=sequence_classification and {path}.num_classes of 2 or more"
        yield Problem(f"{path}.multi_label", True, rule, "leave it out: the task knows")

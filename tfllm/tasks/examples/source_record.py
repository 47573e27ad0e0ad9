"""What a record of a source and a target says."""

from __future__ import annotations

from tfllm.data.errors import DataError
from tfllm.data.record import Record
from tfllm.tasks.examples.prompt import SOURCE, TARGET

_SHOWN = 80  # characters of a value that is shown


def targets_of(record: Record) -> list[str]:
    """Return the texts that are right, of which the first is learned.

    Raises:
        DataError: The column target is not there, or holds neither a text nor a list of texts.
    """
    found = record.value(TARGET)
    texts = found if isinstance(found, list) else [found]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise DataError(
            f"{record.at}{TARGET!r} must be a text, or a list of texts of which the first is learned, and is"
            f" {str(found)[:_SHOWN]!r}; name another column"
        )
    return texts


def has_both(record: Record) -> bool:
    """Return whether neither source nor target is blank."""
    return bool(record.text(SOURCE).strip() and targets_of(record)[0].strip())

"""Reading a JSON object from a file with errors that say what to do."""

from pathlib import Path
from typing import Any

from tfllm.json_text import read_json
from tfllm.tokenizers.errors import TokenizerError


def read_json_object(path: str | Path, *, mend: str) -> dict[str, Any]:
    """Return the JSON object in the file at `path`.

    Raises:
        TokenizerError: there is no such file, or it does not hold a JSON object; the message ends with
            `mend`.
    """
    try:
        content = read_json(path)
    except OSError as error:
        raise TokenizerError(f"{path}: must be a readable file ({error.strerror}); {mend}") from error
    except ValueError as error:
        raise TokenizerError(f"{path}: must be UTF-8 JSON ({error}); {mend}") from error
    if not isinstance(content, dict):
        raise TokenizerError(f"{path}: must hold a JSON object, not {type(content).__name__}; {mend}")
    return content

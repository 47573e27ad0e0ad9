"""Handles of models on a hub, and the local folders that they are downloaded to."""

from __future__ import annotations

import re
from pathlib import Path

from tfllm.convert.errors import ConvertError
from tfllm.convert.gguf_parts import part_names

_HANDLE = re.compile(
    r"hf://(?P<repository>[\w.-]+/[\w.-]+)(?P<file>(?:/(?!\.)[\w.-]+)*)(?:@(?P<revision>[\w./-]+))?"
)
# Whatever a checkpoint is read from; weights in other formats stay where they are.
_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")


def local_path(source: str | Path) -> Path:
    """Where a checkpoint lies on this machine, after downloading it if need be.

    Args:
        source: A path, `hf://org/name`, or `hf://org/name/file.gguf`; a revision may follow, `@v1.0`. What is
            downloaded is kept in the cache of huggingface_hub, and found there without a network.

    Raises:
        ConvertError: when it is not a handle, is not there, or cannot be reached.
    """
    if not str(source).startswith("hf://"):
        if re.match(r"\w+://", str(source)):
            raise ConvertError(
                f"{source} is not a handle that tfllm knows; write hf://org/name, keras_nlp://preset, or the path of a"
                " local folder"
            )
        try:
            return Path(source).expanduser()
        except RuntimeError:
            raise ConvertError(
                f"{source} begins at a home folder that the system does not know; write the whole path"
            ) from None
    handle = _HANDLE.fullmatch(str(source))
    if handle is None:
        raise ConvertError(
            f"{source} is not a handle; write hf://org/name, or hf://org/name/file.gguf, with @revision if need be"
        )
    return _downloaded(str(source), handle["repository"], handle["file"].lstrip("/"), handle["revision"])


def _downloaded(source: str, repository: str, file: str, revision: str | None) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        if file:
            *folders, name = file.split("/")
            parts = ["/".join([*folders, part]) for part in part_names(name)]
            found = {
                part: huggingface_hub.hf_hub_download(repository, part, revision=revision) for part in parts
            }
            return Path(found[file])
        return Path(
            huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=list(_FILES))
        )
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403, 404):
            raise ConvertError(
                f"{source}: the hub says {status}; the model does not exist, or its licence must be accepted and"
                " HF_TOKEN set, or download it elsewhere and give the local folder"
            ) from None
        raise ConvertError(_unreachable(source, error)) from None
    except (LocalEntryNotFoundError, OSError, RuntimeError, ValueError) as error:
        raise ConvertError(_unreachable(source, error)) from None


def _unreachable(source: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"{source} cannot be downloaded ({reason}); without a network, copy the folder of the model here and give its"
        " path instead"
    )

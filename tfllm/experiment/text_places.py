"""Where the text of a run lies, for whoever works in another folder than it was trained from."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from typing import Any

from tfllm.config import ExperimentConfig
from tfllm.config.data import MixtureConfig, ParallelTextConfig
from tfllm.data.sources.files import matches
from tfllm.experiment.run_folder import RunFolder


def folder_of_text(run: RunFolder) -> dict[str, str]:
    """What a checkpoint records: the working directory, whole and as seen from the run folder.

    Nothing where the working directory has been removed: then no relative path leads anywhere.
    """
    try:
        here = os.getcwd()
    except FileNotFoundError:
        return {}
    return {"whole": here, "from_run": os.path.relpath(here, os.path.realpath(run.path))}


def located(config: ExperimentConfig, run: RunFolder, *, here_first: bool = False) -> ExperimentConfig:
    """Leads the relative paths of a config's text to where a run was trained from.

    Each path is tried there as seen from the run folder, as both may have been moved together, then there as it
    was recorded; what is in neither stays relative to the working directory.

    Args:
        config: The run's config, or one that it goes on with.
        run: The run.
        here_first: What is found from the working directory stays as it is.

    Returns:
        The config with whole paths.
    """
    recorded = run.about().get("folder")
    if not isinstance(recorded, dict) or not recorded:
        return config
    folders = [os.path.normpath(os.path.join(os.path.realpath(run.path), str(recorded.get("from_run", "."))))]
    folders.append(str(recorded.get("whole", ".")))
    if here_first or (os.path.isdir(folders[0]) and os.path.samefile(folders[0], os.curdir)):
        folders.insert(0, "")
    data = config.data
    found: dict[str, Any] = {
        name: _section(getattr(data, name), folders) for name in ("train", "validation", "test")
    }
    if data.cache_dir is not None:
        found["cache_dir"] = _folder(data.cache_dir, folders)
    return dataclasses.replace(config, data=dataclasses.replace(data, **found))


def _section(section: Any, folders: list[str]) -> Any:
    if isinstance(section, MixtureConfig):
        parts = [dataclasses.replace(part, source=_section(part.source, folders)) for part in section.sources]
        return dataclasses.replace(section, sources=tuple(parts))
    if isinstance(section, ParallelTextConfig):
        source, target = (_files(paths, folders) for paths in (section.source, section.target))
        return dataclasses.replace(section, source=source, target=target)
    path = getattr(section, "path", None)
    if isinstance(path, str):  # as a plug-in may have it
        return dataclasses.replace(section, path=_file(path, folders))
    if path is not None:
        return dataclasses.replace(section, path=_files(path, folders))
    if getattr(section, "data_dir", None) is not None:
        return dataclasses.replace(section, data_dir=_folder(section.data_dir, folders))
    return section


def _files(paths: Iterable[str], folders: list[str]) -> tuple[str, ...]:
    return tuple(_file(path, folders) for path in paths)


def _file(path: str, folders: list[str]) -> str:
    if _is_whole(path):
        return path
    return next((os.path.join(folder, path) for folder in folders if matches(path, folder)), path)


def _folder(path: str, folders: list[str]) -> str:
    if _is_whole(path):
        return path
    tried = [os.path.join(folder, path) for folder in folders]
    return next((place for place in tried if os.path.isdir(place)), path)


def _is_whole(path: str) -> bool:
    return os.path.isabs(path) or path.startswith("~")

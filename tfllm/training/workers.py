"""Who takes part in a job of several workers, and which of them this process is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfllm.training.errors import TrainingError

PORT = 12355  # of the first worker on a machine, where the environment names machines only


@dataclass(frozen=True)
class Workers:
    """The workers of a job.

    Args:
        addresses: `host:port` of each; the first one is the chief, which writes the run folder.
        index: Which of them this process is.
    """

    addresses: tuple[str, ...]
    index: int


def find_workers(
    addresses: Sequence[str] | None = None, index: int | None = None, *, environ: Mapping[str, str]
) -> Workers:
    """Finds the workers: from the config or, without `addresses`, from the environment.

    Args:
        addresses: `host:port` of every worker, from the config.
        index: Which one this process is; None takes TF_CONFIG's, SLURM_PROCID or JOB_COMPLETION_INDEX.
        environ: The environment: TF_CONFIG (as tf.distribute and Kubeflow's TFJob write it), else SLURM's
            SLURM_STEP_NODELIST, SLURM_STEP_TASKS_PER_NODE and SLURM_PROCID, else an indexed Kubernetes
            job's JOB_COMPLETION_INDEX and HOSTNAME, with TFLLM_NUM_WORKERS and, where the pods are in a
            headless service, TFLLM_SUBDOMAIN set in its template.

    Raises:
        TrainingError: when neither says who takes part, or they contradict themselves.
    """
    if addresses:
        found = tuple(addresses)
        if index is None:
            index = _own_index(environ)
    elif "TF_CONFIG" in environ:
        found, index = _from_tf_config(environ["TF_CONFIG"])
    elif "SLURM_PROCID" in environ:
        found, index = _from_slurm(environ)
    elif "JOB_COMPLETION_INDEX" in environ:
        found, index = _from_kubernetes(environ)
    else:
        raise TrainingError(
            "distribution.type=multi_worker, but nothing says who takes part: set distribution.workers and"
            " distribution.index, or TF_CONFIG, or start under SLURM or an indexed Kubernetes job"
        )
    if not 0 <= index < len(found):
        raise TrainingError(
            f"worker index {index} is not one of the {len(found)} workers {', '.join(found)}; write 0 to"
            f" {len(found) - 1}"
        )
    if len(set(found)) < len(found):
        raise TrainingError(f"two workers have the same address: {', '.join(found)}; give each its own port")
    return Workers(found, index)


def _own_index(environ: Mapping[str, str]) -> int:
    if "TF_CONFIG" in environ:
        return _from_tf_config(environ["TF_CONFIG"])[1]
    for name in ("SLURM_PROCID", "JOB_COMPLETION_INDEX"):
        if name in environ:
            return _number(environ, name)
    raise TrainingError(
        "distribution.workers is set, but not which of them this process is; add distribution.index=0 for"
        " the first, 1 for the second, …"
    )


def _from_tf_config(text: str) -> tuple[tuple[str, ...], int]:
    try:
        config: Any = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        known = {"chief", "worker"}
        if not set(cluster) <= known or task["type"] not in cluster:
            raise ValueError(f"its cluster has {sorted(cluster)} and its task is of type {task['type']!r}")
        chiefs, workers = cluster.get("chief", []), cluster.get("worker", [])
        index = int(task["index"]) + (len(chiefs) if task["type"] == "worker" else 0)
        return (*chiefs, *workers), index
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"TF_CONFIG={text!r} cannot be used ({error}); write"
            ' {"cluster": {"worker": ["host:port", …]}, "task": {"type": "worker", "index": 0}}'
        ) from None


def _from_slurm(environ: Mapping[str, str]) -> tuple[tuple[str, ...], int]:
    hosts = list(expand_hosts(_text(environ, "SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST")))
    counts = list(_expand_counts(_text(environ, "SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE")))
    # The order of the list is the order of the ranks, under SLURM's default (block) distribution.
    tasks = [
        f"{host}:{PORT + task}" for host, count in zip(hosts, counts, strict=False) for task in range(count)
    ]
    return tuple(tasks), _number(environ, "SLURM_PROCID")


def expand_hosts(text: str) -> Iterator[str]:
    """Yields the hosts of SLURM's short form: `gpu[01-03,7],login` → gpu01, gpu02, gpu03, gpu7, login."""
    for part in re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", text):
        match = re.fullmatch(r"([^\[]*)\[([^\]]*)\](.*)", part)
        if not match:
            yield part
            continue
        head, inside, tail = match.groups()
        for item in inside.split(","):
            first, _, last = item.partition("-")
            for number in range(int(first), int(last or first) + 1):
                yield from expand_hosts(f"{head}{number:0{len(first)}d}{tail}")


def _expand_counts(text: str) -> Iterator[int]:
    for part in text.split(","):  # `2(x3),1` → 2, 2, 2, 1
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if not match:
            raise TrainingError(f"SLURM_STEP_TASKS_PER_NODE={text!r} is not of the form 2(x3),1")
        yield from [int(match[1])] * int(match[2] or 1)


def _from_kubernetes(environ: Mapping[str, str]) -> tuple[tuple[str, ...], int]:
    index = _number(environ, "JOB_COMPLETION_INDEX")
    count = _number(environ, "TFLLM_NUM_WORKERS")
    # An indexed job's pods are called <job>-<index>; a headless service makes that a name to connect to.
    job = _text(environ, "HOSTNAME").removesuffix(f"-{index}")
    domain = environ.get("TFLLM_SUBDOMAIN")
    return tuple(f"{job}-{i}{f'.{domain}' if domain else ''}:{PORT}" for i in range(count)), index


def _text(environ: Mapping[str, str], *names: str) -> str:
    for name in names:
        if environ.get(name):
            return environ[name]
    raise TrainingError(f"{names[0]} is not set in the environment; set it, or distribution.workers")


def _number(environ: Mapping[str, str], name: str) -> int:
    text = _text(environ, name)
    if not text.isdigit():
        raise TrainingError(f"{name}={text!r} is not a whole number")
    return int(text)

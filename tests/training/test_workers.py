import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scripts.checks.resume import environment
from scripts.checks.workers import free_ports
from tests.training.run_worker import SETTINGS
from tests.training.toy import run_steps, toy_step
from tfllm.training.errors import TrainingError
from tfllm.training.workers import Workers, expand_hosts, find_workers

ROOT = Path(__file__).parents[2]
TWO = ("a:1", "b:2")


def tf_config(**task):
    return json.dumps({"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1, **task}})


@pytest.mark.parametrize(
    ("addresses", "index", "environ", "expected"),
    [
        (TWO, 1, {}, Workers(TWO, 1)),
        (TWO, None, {"SLURM_PROCID": "1"}, Workers(TWO, 1)),
        (TWO, None, {"JOB_COMPLETION_INDEX": "0"}, Workers(TWO, 0)),
        (TWO, None, {"TF_CONFIG": tf_config()}, Workers(TWO, 1)),
        (None, None, {"TF_CONFIG": tf_config(), "SLURM_PROCID": "0"}, Workers(TWO, 1)),
        (
            None,
            None,
            {
                "TF_CONFIG": json.dumps(
                    {"cluster": {"worker": ["b:2"], "chief": ["a:1"]}, "task": {"type": "worker", "index": 0}}
                )
            },
            Workers(TWO, 1),
        ),
        (
            None,
            None,
            {
                "SLURM_PROCID": "3",
                "SLURM_STEP_NODELIST": "gpu[2,10],login",
                "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
            },
            Workers(("gpu2:12355", "gpu2:12356", "gpu10:12355", "gpu10:12356", "login:12355"), 3),
        ),
        (
            None,
            None,
            {
                "JOB_COMPLETION_INDEX": "1",
                "HOSTNAME": "train-1",
                "TFLLM_NUM_WORKERS": "2",
                "TFLLM_SUBDOMAIN": "pods",
            },
            Workers(("train-0.pods:12355", "train-1.pods:12355"), 1),
        ),
    ],
    ids=[
        "config",
        "config, slurm",
        "config, kubernetes",
        "config, tf_config",
        "tf_config",
        "chief",
        "slurm",
        "kubernetes",
    ],
)
def test_workers_are_found(addresses, index, environ, expected):
    assert find_workers(addresses, index, environ=environ) == expected


@pytest.mark.parametrize(
    ("addresses", "index", "environ", "message"),
    [
        (None, None, {}, "nothing says who takes part"),
        (TWO, None, {}, "add distribution.index=0 for the first"),
        (TWO, 2, {}, "worker index 2 is not one of the 2 workers a:1, b:2; write 0 to 1"),
        (("a:1", "a:1"), 0, {}, "two workers have the same address"),
        (None, None, {"TF_CONFIG": "{"}, "TF_CONFIG='{' cannot be used"),
        (None, None, {"TF_CONFIG": tf_config(type="ps")}, "its task is of type 'ps'"),
        (None, None, {"SLURM_PROCID": "0"}, "SLURM_STEP_NODELIST is not set"),
        (
            None,
            None,
            {"SLURM_PROCID": "0", "SLURM_STEP_NODELIST": "a", "SLURM_STEP_TASKS_PER_NODE": "x"},
            "is not of the form",
        ),
        (None, None, {"JOB_COMPLETION_INDEX": "0"}, "TFLLM_NUM_WORKERS is not set"),
        (None, None, {"JOB_COMPLETION_INDEX": "one"}, "is not a whole number"),
    ],
)
def test_workers_that_cannot_be_found_are_an_error(addresses, index, environ, message):
    with pytest.raises(TrainingError) as caught:
        find_workers(addresses, index, environ=environ)
    assert message in str(caught.value)


def test_hosts_are_written_out():
    text = "n[01-03,7],login,rack[1-2]x[0-1]"
    hosts = ["n01", "n02", "n03", "n7", "login", "rack1x0", "rack1x1", "rack2x0", "rack2x1"]
    assert list(expand_hosts(text)) == hosts


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_two_workers_equal_one_device(tmp_path, precision):
    """Processes of their own, over loopback: clipped, accumulated, dropout on, weights uneven."""
    addresses = ",".join(f"localhost:{port}" for port in free_ports(2))
    command = [sys.executable, "-m", "tests.training.run_worker", tmp_path / "worker", precision, addresses]
    workers = [
        subprocess.Popen(
            [*command, str(index)],
            cwd=ROOT,
            env=environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for index in (0, 1)
    ]
    messages = [worker.communicate(timeout=120)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(messages)
    first, second = (list(np.load(tmp_path / f"worker_{index}.npz").values()) for index in (0, 1))
    assert str(first[0]) == "worker 1 was started with another text than worker 0; share it"
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    settings = {**SETTINGS, "num_microbatches": 4}  # the same parts of the batch
    metrics, weights = run_steps(toy_step(dtype=precision, precision=precision, **settings), 4)
    np.testing.assert_allclose(first[1], metrics, rtol=2e-6, atol=1e-6)
    for one, other in zip(first[2:], weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)

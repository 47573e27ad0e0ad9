"""What is known of GPUs without one: names, rates, memory that runs out, and which GPUs are taken."""

import contextlib
import os
from pathlib import Path

import pytest
import tensorflow as tf

from tfllm.commands import start
from tfllm.training import throughput
from tfllm.training.distribution import one_device
from tfllm.training.errors import TrainingError
from tfllm.training.peak_memory import memory_errors

MEASURED = None


@pytest.mark.parametrize(
    ("name", "precision", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "mixed_bfloat16", 989e12),
        ("NVIDIA H100 80GB HBM3", "float32", 494e12),
        ("NVIDIA H100 PCIe", "mixed_bfloat16", 756e12),
        ("NVIDIA GH200 480GB", "mixed_bfloat16", 989e12),
        ("NVIDIA A100-SXM4-40GB", "mixed_float16", 312e12),
        ("Tesla V100-SXM2-16GB", "float32", 15.7e12),
        ("NVIDIA L4", "mixed_bfloat16", 121e12),
        ("NVIDIA L40S", "mixed_bfloat16", MEASURED),  # holds L4, and does three times as much
        ("NVIDIA T400 4GB", "float32", MEASURED),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "mixed_bfloat16", MEASURED),  # a seventh of one
        ("NVIDIA GeForce RTX 4090", "float32", MEASURED),
    ],
)
def test_a_gpu_is_known_by_its_name(gpus, name, precision, expected):
    gpus(1, name)
    found = throughput.peak_flops(precision)
    assert found == expected if expected else found[0] == "measured"


def test_without_tf32_the_published_rate_is_out_of_reach(gpus):
    gpus(1, "NVIDIA H100 80GB HBM3")
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        assert throughput.peak_flops("float32") == ("measured", 8192, "float32")
        assert throughput.peak_flops("mixed_bfloat16") == 989e12
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(True)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_an_unknown_gpu_is_measured_in_the_type_that_computes(gpus, precision):
    gpus(1, "NVIDIA B300")
    assert throughput.peak_flops(precision) == ("measured", 8192, precision.removeprefix("mixed_"))


@pytest.fixture
def gpus(monkeypatch):
    """Pretends that there are GPUs of a name -> what was made visible."""

    def pretend(count, name="NVIDIA H100 80GB HBM3"):
        devices = [tf.config.PhysicalDevice(f"/physical_device:GPU:{i}", "GPU") for i in range(count)]
        shown = []
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: devices)
        monkeypatch.setattr(tf.config, "set_visible_devices", lambda some, kind: shown.append((some, kind)))
        monkeypatch.setattr(
            tf.config.experimental, "get_device_details", lambda device: {"device_name": name}
        )
        monkeypatch.setattr(throughput, "_measured_flops", lambda *settings: ("measured", *settings))
        return devices, shown

    return pretend


def test_one_device_leaves_the_other_gpus_alone(gpus):
    devices, shown = gpus(4)
    assert one_device().num_replicas_in_sync == 1
    assert shown == [(devices[:1], "GPU")]


def test_one_gpu_is_not_touched(gpus):
    _, shown = gpus(1)
    one_device()
    assert not shown


def test_gpus_that_are_taken_already_stay_so(gpus, monkeypatch):
    gpus(2)

    def refuse(some, kind):
        raise RuntimeError("Visible devices cannot be modified after being initialized")

    monkeypatch.setattr(tf.config, "set_visible_devices", refuse)
    one_device()


@pytest.mark.parametrize(
    "message",
    [
        "Graph execution error:\n\nOOM when allocating tensor with shape[32,256,704] and type float on GPU:0",
        "Out of memory while trying to allocate 68852648264 bytes.\n\t [[{{node cluster_0_1/xla_run}}]]",
        "2 root error(s) found.\n  (0) RESOURCE_EXHAUSTED: failed to allocate memory",
    ],
)
def test_memory_that_runs_out_is_one_message_with_mends(message):
    with pytest.raises(TrainingError) as caught, memory_errors():
        raise tf.errors.ResourceExhaustedError(None, None, message)
    words = str(caught.value)
    assert "training.microbatch_size" in words and "training.remat" in words and "\n" not in words
    assert "alloc" in words.partition("Lower")[0]


def test_a_full_disk_is_not_taken_for_memory():
    error = tf.errors.ResourceExhaustedError(None, None, "/runs/a/events; No space left on device")
    with pytest.raises(tf.errors.ResourceExhaustedError) as caught, memory_errors():
        raise error
    assert caught.value is error


def test_a_step_without_memory_is_no_traceback(monkeypatch, tmp_path):
    from tfllm.config import config_from_mapping
    from tfllm.experiment import run as training_run

    @contextlib.contextmanager
    def set_up(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[9]")
        yield

    monkeypatch.setattr(training_run, "set_up", set_up)
    config = config_from_mapping({"name": "a", "data": {"train": {"type": "python_docs"}}})
    with pytest.raises(TrainingError, match="no memory left"):
        training_run.train(config, tmp_path)


@pytest.mark.parametrize(
    ("there", "visible", "said"),
    [(True, None, True), (True, "0", True), (True, "-1", False), (True, "", False), (False, None, False)],
)
def test_a_gpu_that_tensorflow_cannot_use_is_said(monkeypatch, capfd, there, visible, said):
    exists = Path.exists
    monkeypatch.setattr(
        Path, "exists", lambda path, **how: there if str(path) == "/dev/nvidia0" else exists(path, **how)
    )
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setitem(os.environ, "CUDA_VISIBLE_DEVICES", visible)
    start.start_tensorflow()
    assert ("tensorflow[and-cuda]" in capfd.readouterr().err) is said

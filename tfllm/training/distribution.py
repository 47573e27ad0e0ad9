"""How many devices share a batch."""

from __future__ import annotations

import tensorflow as tf

from tfllm.training.errors import TrainingError


def make_strategy(kind: str, *, num_devices: int | None = None) -> tf.distribute.Strategy:
    """Makes a `tf.distribute` strategy.

    Args:
        kind: `one_device` or `mirrored`.
        num_devices: For `mirrored`: GPUs to use or, on a machine without any, logical CPU devices to
            make; None takes every GPU.

    Returns:
        The strategy; for `one_device` TensorFlow's default one, which adds no machinery.

    Raises:
        TrainingError: when there are not enough devices.
    """
    if kind == "one_device":
        return tf.distribute.get_strategy()
    if kind != "mirrored":
        raise ValueError(f"distribution kind={kind!r} is not known; use one_device or mirrored")
    gpus = tf.config.list_logical_devices("GPU") if tf.config.list_physical_devices("GPU") else []
    if gpus:
        if num_devices is not None and num_devices > len(gpus):
            message = f"distribution.num_devices={num_devices}, but this machine has {len(gpus)} GPUs"
            raise TrainingError(f"{message}; write at most {len(gpus)}")
        names = [gpu.name for gpu in gpus[:num_devices]]
    else:
        names = _logical_cpus(num_devices or 1)
    # Without NCCL the reduction goes over the host, in a fixed order, so runs repeat digit for digit.
    operations = None if gpus else tf.distribute.HierarchicalCopyAllReduce(num_packs=1)
    return tf.distribute.MirroredStrategy(devices=names, cross_device_ops=operations)


def _logical_cpus(count: int) -> list[str]:
    cpu = tf.config.list_physical_devices("CPU")[0]
    present = tf.config.get_logical_device_configuration(cpu)
    if len(present or ()) < count:
        try:
            devices = [tf.config.LogicalDeviceConfiguration() for _ in range(count)]
            tf.config.set_logical_device_configuration(cpu, devices)
        except RuntimeError:
            message = (
                f"distribution.num_devices={count} needs logical CPU devices, but TensorFlow has started"
            )
            raise TrainingError(f"{message} with fewer; make the strategy first in the process") from None
    return [device.name for device in tf.config.list_logical_devices("CPU")[:count]]

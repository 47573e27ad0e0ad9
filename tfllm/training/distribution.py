"""How many devices share a batch, on one machine or on several."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import tensorflow as tf

from tfllm.training.errors import TrainingError, WorkerLostError
from tfllm.training.workers import find_workers


def one_device() -> tf.distribute.Strategy:
    """TensorFlow's default strategy, which adds no machinery: the first GPU, or the CPU.

    As for the other strategies: make it before anything else starts TensorFlow, as logical devices and workers cannot
    be added later.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if len(gpus) > 1:  # TensorFlow takes the memory of every GPU that it sees, used or not
        with suppress(RuntimeError):  # it has started, and what it took stays taken
            tf.config.set_visible_devices(gpus[:1], "GPU")
    return tf.distribute.get_strategy()


def mirrored(num_devices: int | None = None) -> tf.distribute.Strategy:
    """Several devices of one machine.

    Args:
        num_devices: GPUs to use or, on a machine without any, logical CPU devices to make; None takes every GPU.

    Raises:
        TrainingError: when there are not enough devices.
    """
    gpus = tf.config.list_logical_devices("GPU") if tf.config.list_physical_devices("GPU") else []
    if gpus:
        if num_devices is not None and num_devices > len(gpus):
            message = f"distribution.num_devices={num_devices}, but this machine has {len(gpus)} GPUs"
            raise TrainingError(f"{message}; write at most {len(gpus)}")
        names = [gpu.name for gpu in gpus[:num_devices]]
    else:
        names = _logical_cpus(num_devices or 1)
    # Every GPU stays visible, the unused too, or TensorFlow would think that some are virtual and do without NCCL.
    # Without NCCL the reduction goes over the host, in a fixed order, so runs repeat digit for digit.
    operations = None if gpus else tf.distribute.HierarchicalCopyAllReduce(num_packs=1)
    return tf.distribute.MirroredStrategy(devices=names, cross_device_ops=operations)


def multi_worker(workers: Sequence[str] | None = None, index: int | None = None) -> tf.distribute.Strategy:
    """Several machines.

    Args:
        workers: `host:port` of every worker; None: see `find_workers`.
        index: Which of them this process is.

    Raises:
        TrainingError: when the workers cannot be found, or this one cannot start.
    """
    found = find_workers(workers, index, environ=os.environ)
    if len(found.addresses) == 1:
        return mirrored()
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(found.addresses)}),
        task_type="worker",
        task_id=found.index,
        rpc_layer="grpc",
    )
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    except (RuntimeError, tf.errors.OpError) as error:
        raise TrainingError(
            f"worker {found.index} could not start at {found.addresses[found.index]}:"
            f" {_reason(error)}. Check that the address is this machine's and its port is free"
        ) from error


def tpu(tpu: str = "local") -> tf.distribute.Strategy:
    """The cores of a TPU. Written against TensorFlow's API; it has never run on one.

    Args:
        tpu: Its name or address, or `local`.

    Raises:
        TrainingError: when no TPU can be started there.
    """
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=tpu)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        raise TrainingError(
            f"distribution.tpu={tpu!r}: no TPU could be started there ({_reason(error)}); check the name, or"
            " set distribution.type to one_device or mirrored"
        ) from error
    return tf.distribute.TPUStrategy(resolver)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes the run folder: the only one, or the first of several workers."""
    resolver = strategy.cluster_resolver
    return resolver is None or not resolver.task_id


def worker_index(strategy: tf.distribute.Strategy) -> int:
    """The place of this process among several workers; 0 where it is the only one."""
    resolver = strategy.cluster_resolver
    return int(resolver.task_id or 0) if num_workers(strategy) > 1 and resolver is not None else 0


def num_workers(strategy: tf.distribute.Strategy) -> int:
    """Processes that share the work."""
    resolver = strategy.cluster_resolver
    return (
        len(resolver.cluster_spec().job_tasks("worker"))
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) and resolver is not None
        else 1
    )


def shares_of(context: tf.distribute.InputContext, strategy: tf.distribute.Strategy) -> range:
    """Which replicas' shares of a batch an input pipeline makes."""
    each = strategy.num_replicas_in_sync // context.num_input_pipelines
    return range(context.input_pipeline_id * each, (context.input_pipeline_id + 1) * each)


def gather_from_workers(strategy: tf.distribute.Strategy, numbers: Sequence[int]) -> list[list[int]]:
    """Every worker's numbers, at every worker; all wait until all have come.

    Args:
        strategy: The strategy.
        numbers: As many at every worker, each in [0, 2**31).

    Returns:
        The numbers of each worker, in their order.
    """
    if num_workers(strategy) == 1:
        return [list(numbers)]

    @tf.function(autograph=False)
    def gather() -> tf.Tensor:
        def of_replica() -> tf.Tensor:
            with tf.device("CPU:0"):
                own = tf.identity(tf.constant([numbers], tf.int32))
            return tf.distribute.get_replica_context().all_gather(own, axis=0)

        return strategy.experimental_local_results(strategy.run(of_replica))[0]

    with worker_errors():
        rows = gather().numpy().tolist()
    each = len(rows) // num_workers(strategy)
    return rows[::each]


@contextmanager
def worker_errors() -> Iterator[None]:
    """Turns TensorFlow's errors about a worker that has gone into one that says what to do.

    Raises:
        WorkerLostError: instead of them.
    """
    try:
        yield
    except (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
    ) as error:
        raise WorkerLostError(
            "another worker has stopped or cannot be reached, so this one stops too"
            f" ({_reason(error)}). Start every worker again with the same command: the run goes on from the"
            " last checkpoint"
        ) from error
    except tf.errors.InternalError as error:
        if "ollective" not in str(error) and "worker" not in str(error):
            raise
        raise WorkerLostError(
            f"the workers lost each other ({_reason(error)}). Start every worker again with the same"
            " command: the run goes on from the last checkpoint"
        ) from error


def check_agreement(
    strategy: tf.distribute.Strategy, fingerprints: Mapping[str, int], *, mends: Mapping[str, str]
) -> None:
    """Compares what every worker was started with; returns when all agree.

    Args:
        strategy: The strategy.
        fingerprints: A number in [0, 2**31) for each thing that must be the same, by its name.
        mends: What to do when it is not.

    Raises:
        TrainingError: at every worker, naming the workers and the thing in which they differ.
    """
    rows = gather_from_workers(strategy, list(fingerprints.values()))
    for column, name in enumerate(fingerprints):
        differ = [worker for worker, row in enumerate(rows) if row[column] != rows[0][column]]
        if differ:
            names = ", ".join(map(str, differ))
            raise TrainingError(
                f"worker {names} was started with another {name} than worker 0; {mends[name]}"
            )


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


def _reason(error: Any) -> str:
    text = error.message if isinstance(error, tf.errors.OpError) else str(error)
    aborted = re.search(r"aborted by: (.*)", text)
    lines = [aborted[1]] if aborted else [line for line in text.splitlines() if line.strip()]
    return lines[0].strip() if lines else type(error).__name__

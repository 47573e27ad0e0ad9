"""The systems of `training.py` that need TensorFlow: tfllm and KerasHub; it starts this module itself."""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from scripts.benchmarks.worker import Report, serve
from tfllm.commands.start import start_tensorflow


def main() -> None:
    serve(_build, sys.argv[1:])


def _build(settings: Report):
    start_tensorflow()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(settings["threads"])
    build = {"tfllm": _tfllm, "keras_hub": _keras_hub, "tensorflow_product": _product}
    return build[settings["system"]](settings)


def _tfllm(settings: Report):
    import tensorflow as tf

    from scripts.benchmarks.gpt2_tensorflow import make_model, make_step
    from tfllm.experiment import flops_per_token
    from tfllm.tasks.causal_lm import CausalLM
    from tfllm.training.precision import dtype_policy
    from tfllm.training.train_step import METRICS

    model = make_model(settings, dtype=dtype_policy(settings["precision"]), **settings["model"])
    step = make_step(model, CausalLM(**settings["task"]))
    token_ids, targets = _tokens(settings)
    features = {"token_ids": token_ids, "targets": targets, "loss_weights": np.ones(targets.shape, "float32")}
    iterator = iter(tf.data.Dataset.from_tensors(features).repeat())

    @tf.function
    def loop(count: tf.Tensor) -> tf.Tensor:
        def body(index, _):
            return index + 1, step(next(iterator))

        start = (tf.constant(0), tf.zeros([len(METRICS)]))
        return tf.while_loop(lambda index, _: index < count, body, start)[1]

    def train(count: int) -> float:
        metrics = dict(zip(METRICS, loop(tf.constant(count)).numpy().tolist(), strict=True))
        return metrics["loss_sum"] / metrics["weight_sum"]

    flops = flops_per_token(model, settings["seq_len"])
    return _measured(train, settings, parameters=model.count_params(), flops_per_token=flops)


def _keras_hub(settings: Report):
    import keras
    import keras_hub
    import tensorflow as tf

    keras.config.set_dtype_policy(settings["precision"])
    keras.utils.set_random_seed(0)
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=settings["vocab"],
        num_layers=settings["layers"],
        num_heads=settings["heads"],
        hidden_dim=settings["width"],
        intermediate_dim=4 * settings["width"],
        dropout=0.0,
        max_sequence_length=settings["seq_len"],
    )
    model = keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None)
    model.compile(
        optimizer=keras.optimizers.AdamW(3e-4, weight_decay=0.1, global_clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=True,
    )
    token_ids, targets = _tokens(settings)
    features = {"token_ids": token_ids, "padding_mask": np.ones_like(token_ids)}
    dataset = tf.data.Dataset.from_tensors((features, targets)).repeat()

    def train(count: int) -> float:
        """Returns the mean loss, where the others return the last step's."""
        return model.fit(dataset, steps_per_epoch=count, epochs=1, verbose=0).history["loss"][0]

    return _measured(train, settings, parameters=model.count_params())


def _measured(train: Any, settings: Report, **report: Any):
    """Warms up; `train` takes a number of steps and returns a loss."""

    def measure() -> Report:
        begin = time.perf_counter()
        loss = train(settings["steps"])
        return {"loss": loss, "seconds": time.perf_counter() - begin, **_device_peak()}

    first_loss = train(1)
    train(1)
    _device_peak(reset=True)  # of steps, not of what compiles them
    return measure, {"first_loss": first_loss, **report}


def _device_peak(*, reset: bool = False) -> Report:
    """The most memory that a GPU has held."""
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        return {}
    peak = tf.config.experimental.get_memory_info("GPU:0")["peak"]
    if reset:
        tf.config.experimental.reset_memory_stats("GPU:0")
    return {"device_gb": peak / 1e9}


def _tokens(settings: Report) -> tuple[np.ndarray, np.ndarray]:
    shape = [settings["batch"], settings["seq_len"] + 1]
    tokens = np.random.default_rng(0).integers(settings["vocab"], size=shape).astype(np.int32)
    return tokens[:, :-1], tokens[:, 1:]


def _product(settings: Report):
    from tfllm.training.throughput import peak_flops

    return lambda: {"flops": peak_flops(settings["precision"])}, {}


if __name__ == "__main__":
    main()

"""tfllm with packed rows, for `finetuning.py`, which starts this module itself."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from scripts.benchmarks.worker import Report, serve
from tfllm.commands.start import start_tensorflow


def main() -> None:
    serve(_build, sys.argv[1:])


def _build(settings: Report):
    start_tensorflow()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(settings["threads"])
    from scripts.benchmarks.gpt2_tensorflow import make_step
    from tfllm import experiment
    from tfllm.config import config_from_mapping
    from tfllm.data.pipeline import training_batches
    from tfllm.training.train_step import METRICS

    folder = Path(settings["folder"])
    data = {
        "train": {"type": "csv", "path": str(folder / "texts.csv")},
        "validation": {"path": str(folder / "held_out.csv")},
        "seq_len": settings["seq_len"],
        "cache_dir": str(folder / "rows"),
    }
    model = {"type": "pretrained", "source": settings["source"], "dropout": 0.1}
    config = config_from_mapping({"name": "m", "task": "classification", "model": model, "data": data})
    config = experiment.with_labels(experiment.expand(config))
    prepared = experiment.prepare(config)
    rows, task = prepared.train, experiment.make_task(config, prepared.tokenizer)
    built = experiment.make_model(config, prepared.tokenizer.vocab_size, training=True)
    experiment.start_from_source(config, built)
    step = make_step(built, task)
    batches = training_batches(
        rows, global_batch_size=settings["batch"], seed=0, transform=task.features, aligned=task.aligned
    )
    iterator = iter(batches)

    @tf.function
    def loop(count: tf.Tensor) -> tf.Tensor:
        def body(index, sums):
            return index + 1, sums + step(next(iterator))

        start = (tf.constant(0), tf.zeros([len(METRICS)]))
        return tf.while_loop(lambda index, _: index < count, body, start)[1]

    def train(steps: int) -> Report:
        begin = time.perf_counter()
        sums = dict(zip(METRICS, loop(tf.constant(steps)).numpy().tolist(), strict=True))
        return {
            "loss": sums["loss_sum"] / sums["weight_sum"],
            "seconds": time.perf_counter() - begin,
            "useful": sums["real_tokens"],
            "positions": sums["positions"],
        }

    first_loss = train(1)["loss"]
    train(1)
    steps = -(-rows.num_rows // settings["batch"])
    return lambda: train(steps), {"first_loss": first_loss, "parameters": built.count_params()}


if __name__ == "__main__":
    main()

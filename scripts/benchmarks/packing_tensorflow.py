"""tfllm with packed rows, for `packing.py`, which starts this module itself."""

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
    from scripts.benchmarks.gpt2_tensorflow import make_model, make_step
    from tfllm.data.pipeline import training_batches
    from tfllm.data.prepare import prepare_rows
    from tfllm.data.sources import TextFilesSource
    from tfllm.tasks.causal_lm import CausalLM
    from tfllm.tokenizers import read_tokenizer
    from tfllm.training.train_step import METRICS

    folder = Path(settings["folder"])
    rows = prepare_rows(
        source=TextFilesSource(folder / "texts.txt", split_on="\n"),
        tokenizer=read_tokenizer(folder / "tokenizer"),
        seq_len=settings["seq_len"],
        packing=True,
        cache_dir=folder / "cache",
    )
    step = make_step(make_model(settings), CausalLM())
    iterator = iter(training_batches(rows, global_batch_size=settings["batch"], seed=0))

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
            "useful": sums["weight_sum"],
            "text": sums["real_tokens"],
            "positions": sums["positions"],
        }

    first_loss = train(1)["loss"]
    train(1)
    steps = -(-rows.num_rows // settings["batch"])
    return lambda: train(steps), {"first_loss": first_loss, "parameters": step.model.count_params()}


if __name__ == "__main__":
    main()

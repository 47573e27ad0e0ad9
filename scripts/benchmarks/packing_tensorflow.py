"""tfllm with packed rows, for `bench_packing.py`, which starts this file itself."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from scripts.bench_worker import Report, serve
from tfllm.commands.start import start_tensorflow


def main() -> None:
    serve(_build, sys.argv[1:])


def _build(settings: Report):
    start_tensorflow()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(settings["threads"])
    from tfllm.data.pipeline import training_batches
    from tfllm.data.prepare import prepare_rows
    from tfllm.data.sources import TextFilesSource
    from tfllm.tokenizers import load_tokenizer
    from tfllm.training.train_step import METRICS

    folder = Path(settings["folder"])
    rows = prepare_rows(
        source=TextFilesSource(folder / "texts.txt", split_on="\n"),
        tokenizer=load_tokenizer(folder / "tokenizer"),
        seq_len=settings["seq_len"],
        packing=True,
        cache_dir=folder / "cache",
    )
    step = _train_step(settings)
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


def _train_step(settings: Report):
    import tensorflow as tf

    from tfllm.models.decoder import Decoder
    from tfllm.tasks.causal_lm import CausalLM
    from tfllm.training.optimizers import make_optimizer
    from tfllm.training.train_step import TrainStep

    tf.keras.utils.set_random_seed(0)
    model = Decoder(
        vocab_size=settings["vocab"],
        num_layers=settings["layers"],
        hidden_dim=settings["width"],
        num_heads=settings["heads"],
        max_seq_len=settings["seq_len"],
        norm="layer_norm",
        positions="learned",
        activation="gelu_tanh",
        use_bias=True,
    )
    model.build()
    optimizer = make_optimizer(
        "adamw", learning_rate=3e-4, weight_decay=0.1, variables=model.trainable_variables
    )
    strategy = tf.distribute.get_strategy()
    return TrainStep(model=model, task=CausalLM(), optimizer=optimizer, strategy=strategy, clip_norm=1.0)


if __name__ == "__main__":
    main()

"""One of two workers that train the toy model: python -m tests.training.run_worker OUT PRECISION ADDRESS,ADDRESS INDEX"""

import sys

import numpy as np

from tests.training.toy import batches, run_steps, toy_step
from tfllm.training.distribution import (
    check_agreement,
    gather_from_workers,
    is_chief,
    multi_worker,
    num_workers,
)
from tfllm.training.errors import TrainingError

SETTINGS = {"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.1, "num_microbatches": 2}


def main(out, precision, addresses, index):
    strategy = multi_worker(addresses.split(","), int(index))
    assert num_workers(strategy) == 2
    assert is_chief(strategy) == (index == "0")
    assert gather_from_workers(strategy, [int(index), 7]) == [[0, 7], [1, 7]]
    check_agreement(strategy, {"config": 5}, mends={"config": ""})
    try:
        check_agreement(strategy, {"config": 5, "text": int(index)}, mends={"config": "", "text": "share it"})
        refused = ""
    except TrainingError as error:
        refused = str(error)
    step = toy_step(strategy=strategy, dtype=precision, precision=precision, **SETTINGS)
    metrics, weights = run_steps(step, 4, batches(0, 4))
    np.savez(f"{out}_{index}.npz", refused, metrics, *weights)


if __name__ == "__main__":
    main(*sys.argv[1:])

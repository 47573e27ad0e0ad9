"""Arguments that several commands share."""

from __future__ import annotations

import argparse

OVERRIDES = """examples of overrides:
  optimizer.learning_rate=3e-4   training.steps=2000   model.size=mini
  data.train.path='[a/*.txt,b.txt.gz]'   distribution.type=mirrored distribution.num_devices=2"""


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds CONFIG and its overrides."""
    parser.add_argument("config", metavar="CONFIG", help="a YAML file, e.g. configs/quickstart.yaml")
    parser.add_argument(
        "overrides", metavar="KEY=VALUE", nargs="*", help="dotted overrides of the config, read as YAML"
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """Adds RUN, the folder of a run."""
    parser.add_argument("run", metavar="RUN", help="the folder of a run, e.g. runs/quickstart")


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds MODEL: whatever `tfllm.load` takes."""
    parser.add_argument(
        "run",
        metavar="MODEL",
        help="the folder of a run, or a checkpoint: a folder of transformers, a .gguf file, hf://org/name, or"
        " keras_nlp://preset",
    )

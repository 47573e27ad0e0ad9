"""The command tfllm convert."""

from __future__ import annotations

import argparse

from tfllm.commands.arguments import add_model
from tfllm.commands.start import start_tensorflow

SUMMARY = "write a model in the format of another library, or in ours."

EPILOG = """examples:
  tfllm convert SmolLM2-135M-Instruct.Q4_1.gguf smollm2 --to tfllm
  tfllm convert runs/quickstart quickstart-hf --to huggingface --dtype bfloat16
  tfllm convert runs/chat chat-adapter --to peft"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_model(parser)
    parser.add_argument(
        "to_folder", metavar="FOLDER", help="the folder to write; must not exist yet, or be empty"
    )
    parser.add_argument(
        "--to",
        choices=("huggingface", "peft", "tfllm"),
        required=True,
        help="the format: what transformers opens, or ours; of a model that was tuned with LoRA, its adapter alone",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="type of the weights written (default: the type they are stored in)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Converts and says what was written."""
    start_tensorflow()
    from tfllm.language_model.convert import convert

    convert(arguments.run, arguments.to_folder, to=arguments.to, dtype=arguments.dtype)
    print(arguments.to_folder)
    return 0

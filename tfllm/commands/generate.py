"""The command tfllm generate."""

from __future__ import annotations

import argparse

from tfllm.commands.arguments import add_model
from tfllm.commands.start import start_tensorflow

SUMMARY = "continue prompts, or answer them."

_SETTINGS = {
    "max-new-tokens": (int, "tokens to add at most"),
    "temperature": (float, "0 takes the likeliest token"),
    "top-k": (int, "keep the k likeliest tokens; 0 keeps all"),
    "top-p": (float, "keep the likeliest tokens up to this probability"),
    "repetition-penalty": (float, "1 is off"),
    "seed": (int, "same seed, same text"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_model(parser)
    parser.add_argument("prompts", metavar="PROMPT", nargs="+", help="text to continue")
    parser.add_argument(
        "--chat", action="store_true", help="answer the prompts, in the model's chat template, instead"
    )
    for name, (kind, words) in _SETTINGS.items():
        parser.add_argument(f"--{name}", type=kind, help=f"{words} (default: the model's own)")
    parser.add_argument(
        "--no-jit", action="store_true", help="do not compile with XLA: a faster first answer"
    )


def run(arguments: argparse.Namespace) -> int:
    """Prints each prompt with its continuation, or the answers."""
    start_tensorflow()
    import tfllm

    lm = tfllm.load(arguments.run, jit_compile=not arguments.no_jit)
    names = [name.replace("-", "_") for name in _SETTINGS]
    settings = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    texts = lm.generate(arguments.prompts, chat=arguments.chat, **settings)
    for prompt, text in zip(arguments.prompts, texts, strict=True):
        print(text if arguments.chat else f"{prompt}{text}")
    return 0

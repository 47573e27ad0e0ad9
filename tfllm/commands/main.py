"""`tfllm <command>`: parses, dispatches, and turns errors into one message."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from tfllm.commands import convert, evaluate, export, generate, inspect, prepare, train
from tfllm.config import ConfigError
from tfllm.convert.errors import ConvertError
from tfllm.data.errors import DataError
from tfllm.export.errors import ExportError
from tfllm.generation.errors import GenerationError
from tfllm.models.errors import ModelError
from tfllm.tokenizers import TokenizerError
from tfllm.training.errors import TrainingError
from tfllm.version import __version__

COMMANDS = {
    "prepare": prepare,
    "train": train,
    "evaluate": evaluate,
    "generate": generate,
    "export": export,
    "convert": convert,
    "inspect": inspect,
}
USER_ERRORS = (
    ConfigError,
    ConvertError,
    DataError,
    ExportError,
    GenerationError,
    ModelError,
    TokenizerError,
    TrainingError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: The words after `tfllm`; None takes them from the command line.

    Returns:
        The exit status: 0 done, 1 failed, 2 bad usage or config, 130 interrupted; `train` has more.
    """
    parser = argparse.ArgumentParser(
        prog="tfllm", description="Train, tune, understand and serve language models with TensorFlow."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").splitlines()[0].partition(": ")[2]
        command = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=getattr(module, "EPILOG", None),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
    parsed, rest = parser.parse_known_args(arguments)
    # argparse takes `CONFIG --run-dir DIR KEY=VALUE` for a mistake: overrides must not wait for options.
    if hasattr(parsed, "overrides") and not any(word.startswith("-") for word in rest):
        parsed.overrides = [*parsed.overrides, *rest]
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's start-up notices say nothing to a user
    try:
        return COMMANDS[parsed.command].run(parsed)
    except USER_ERRORS as error:
        print(f"tfllm {parsed.command}: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else getattr(error, "exit_status", 1)
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        print(f"tfllm {parsed.command}: cannot use{where}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"tfllm {parsed.command}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

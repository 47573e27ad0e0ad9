"""`tfllm <command>`: parses, dispatches, and turns errors into one message."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from tfllm.commands import convert, evaluate, export, generate, inspect, predict, prepare, train
from tfllm.commands.terminal import as_text, lasting_streams, mend_streams, say
from tfllm.config import ConfigError
from tfllm.convert.errors import ConvertError
from tfllm.data.errors import DataError
from tfllm.export.errors import ExportError
from tfllm.generation.errors import GenerationError
from tfllm.models.errors import ModelError
from tfllm.peft.errors import PeftError
from tfllm.tasks.errors import TaskError
from tfllm.tokenizers import TokenizerError
from tfllm.training.errors import TrainingError
from tfllm.training.lasting_stream import LastingStream
from tfllm.version import __version__

COMMANDS = {
    "prepare": prepare,
    "train": train,
    "evaluate": evaluate,
    "generate": generate,
    "predict": predict,
    "export": export,
    "convert": convert,
    "inspect": inspect,
}
# What these do lies on disk: they go on when nobody listens any more.
_ON_DISK = ("prepare", "train", "export", "convert")
USER_ERRORS = (
    ConfigError,
    ConvertError,
    DataError,
    ExportError,
    GenerationError,
    ModelError,
    PeftError,
    TaskError,
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
    mend_streams()
    parser = argparse.ArgumentParser(
        prog="tfllm", description="Train, tune, understand and serve language models with TensorFlow."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=module.SUMMARY,
            description=module.SUMMARY,
            epilog=getattr(module, "EPILOG", None),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
    try:
        parsed, rest = parser.parse_known_args(arguments)
    finally:
        LastingStream(sys.stdout).flush()  # help for a reader who has left
    # argparse takes `CONFIG --run-dir DIR KEY=VALUE` for a mistake: overrides must not wait for options.
    if hasattr(parsed, "overrides") and not any(word.startswith("-") for word in rest):
        parsed.overrides = [*parsed.overrides, *rest]
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    for name in ("overrides", "prompts"):
        if hasattr(parsed, name):
            setattr(parsed, name, [as_text(word) for word in getattr(parsed, name)])
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's start-up notices say nothing to a user
    try:
        with lasting_streams(output=parsed.command in _ON_DISK):
            status = COMMANDS[parsed.command].run(parsed)
        sys.stdout.flush()  # here, where what cannot be written has a message and a status
        return status
    except USER_ERRORS as error:
        say(f"tfllm {parsed.command}: {error}")
        return 2 if isinstance(error, ConfigError) else getattr(error, "exit_status", 1)
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        return 0
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        say(f"tfllm {parsed.command}: cannot use{where}: {error.strerror or error}")
        return 1
    except UnicodeEncodeError as error:
        text = ascii(error.object[error.start : error.end])
        say(
            f"tfllm {parsed.command}: {text} cannot be written in {error.encoding}, the encoding of the surroundings;"
            " set PYTHONUTF8=1, or LC_ALL=C.UTF-8"
        )
        return 1
    except KeyboardInterrupt:
        say(f"tfllm {parsed.command}: interrupted")
        return 130
    finally:
        LastingStream(sys.stdout).flush()  # or Python would try at its end, and take status 120


if __name__ == "__main__":
    sys.exit(main())

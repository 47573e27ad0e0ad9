"""The command tfllm train."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tfllm.commands.arguments import OVERRIDES, add_config
from tfllm.commands.start import start_tensorflow
from tfllm.config import load_config
from tfllm.config.home import expand_home

SUMMARY = "train a model as a config says, or go on where its run stopped."

EPILOG = (
    OVERRIDES
    + """

exit status:
  0 done, and the weights are on disk   1 failed   2 bad usage or config   130 Ctrl-C: saved
  143 SIGTERM, SIGUSR1, SIGHUP (unless nohup has it ignored) or a preemption notice: saved; 75 another worker was
  lost. After these two start it again: the same command goes on from the last checkpoint.
A terminal or pipe that closes does not end a training. One process at a time trains in a run folder."""
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_config(parser)
    parser.add_argument("--run-dir", metavar="DIR", help="the run folder (default: runs/<name>)")
    only = parser.add_mutually_exclusive_group()
    only.add_argument(
        "--dry-run",
        action="store_true",
        help="build everything, take two steps, print memory and time; keep nothing",
    )
    only.add_argument(
        "--replay",
        action="store_true",
        help="take the step again at which the run failed, and say where numbers stop being finite",
    )


def run(arguments: argparse.Namespace) -> int:
    """Trains; the exit status says how it ended."""
    config = load_config(arguments.config, arguments.overrides)
    run_dir = expand_home(arguments.run_dir or Path("runs") / config.name, "--run-dir")

    start_tensorflow()
    from tfllm import experiment
    from tfllm.experiment.run_folder import RunFolder
    from tfllm.training.stop_request import exit_code

    config = experiment.located(experiment.expand(config), RunFolder(run_dir), here_first=True)
    if arguments.dry_run or arguments.replay:
        lines = experiment.dry_run(config) if arguments.dry_run else experiment.replay(config, run_dir)
        for line in lines:
            print(line, flush=True)
        return 0
    outcome = experiment.train(config, run_dir)
    if outcome.stopped_by is not None:
        words = f"stopped by {outcome.stopped_by} and saved in {run_dir}; run the same command again to go on"
        print(words, file=sys.stderr)
        return exit_code(outcome.stopped_by)
    print(f"trained: {run_dir}", flush=True)
    if outcome.is_chief:
        experiment.final_test(run_dir)
    if config.export.at_end and outcome.is_chief:
        from tfllm.commands.export import export_run

        export_run(run_dir)
    return 0

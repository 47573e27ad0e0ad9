"""Prints a run's held-out bits a byte, before and after training, beside gzip's on the same documents."""

import argparse
import gzip
import os
import sys
from pathlib import Path

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from tfllm.commands.start import start_tensorflow
from tfllm.experiment.run_folder import RunFolder
from tfllm.training.metrics_log import read_metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", metavar="RUN", help="the folder of a run")
    folder = RunFolder(Path(parser.parse_args().run))
    start_tensorflow()
    from tfllm.experiment import held_out_documents

    text = "\n".join(held_out_documents(folder.load_config())).encode()
    evaluations = [entry for entry in read_metrics(folder.metrics) if entry["split"] == "validation"]
    first, last = evaluations[0], evaluations[-1]
    print(f"held-out text                 {len(text):,} bytes")
    print(f"gzip -9                       {8 * len(gzip.compress(text, 9)) / len(text):.3f} bits a byte")
    for name, entry in (("before training", first), (f"after {last['step']} steps", last)):
        print(f"{name:<30}{entry['bits_per_byte']:.3f} bits a byte, perplexity {entry['perplexity']:,.1f}")


if __name__ == "__main__":
    main()

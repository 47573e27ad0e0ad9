"""The same as `tfllm generate`, from a checkout that is not installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tfllm.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["generate", *sys.argv[1:]]))

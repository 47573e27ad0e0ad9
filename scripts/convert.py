"""The same as `tfllm convert`, from a checkout that is not installed."""

import os
import sys

# The checkout, instead of this folder.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from tfllm.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))

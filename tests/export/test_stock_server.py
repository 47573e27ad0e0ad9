"""The export in processes that know TensorFlow only, with XLA off as in a stock TensorFlow Serving."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from export_case import CASES, DEFAULTS, PROMPTS

SCRIPT = Path(__file__).parents[2] / "scripts" / "continue_export.py"

SERVER = """
import ctypes, json, os, sys
import tensorflow as tf

library = os.path.join(os.path.dirname(tf.__file__), "libtensorflow_cc.so.2")
ctypes.CDLL(library)._ZN10tensorflow21DisableXlaCompilationEv()
request = json.loads(sys.argv[2])
prompts = [prompt.encode() for prompt in request["prompts"]]
try:
    tf.function(tf.square, jit_compile=True)(2.0)
    sys.exit("XLA is not off")
except tf.errors.InternalError as error:
    assert "XLA compilation disabled" in str(error), error

loaded = tf.saved_model.load(sys.argv[1])
inputs = {"prompt": tf.constant(prompts)}
for name, value in request["settings"].items():
    dtype = tf.int32 if isinstance(value, int) else tf.float32
    inputs[name] = tf.fill([len(prompts)], tf.constant(value, dtype))
new = {name: x.numpy().tolist() for name, x in loaded.signatures["generate"](**inputs).items()}

# The C++ loader of servers, through the session of TensorFlow 1.
v1 = tf.compat.v1
with tf.Graph().as_default(), v1.Session() as session:
    meta_graph = v1.saved_model.loader.load(session, ["serve"], sys.argv[1])
    signature = meta_graph.signature_def["serving_default"]
    names = {name: tensor.name for name, tensor in signature.outputs.items()}
    old = session.run(names, {signature.inputs["prompt"].name: prompts})

assert "tfllm" not in sys.modules
texts = [[text.decode() for text in outputs["text"]] for outputs in (new, old)]
print(json.dumps({"generate": texts[0], "serving_default": texts[1], "num_tokens": new["num_tokens"]}))
"""


def run(*arguments):
    process = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd="/")
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.mark.slow
@pytest.mark.parametrize("case", [CASES[1]], indirect=True)
def test_with_xla_off_the_texts_are_those_of_the_live_model(case):
    settings = {**DEFAULTS, "seed": 11, "top_k": 30}
    request = json.dumps({"prompts": PROMPTS, "settings": settings})
    answers = json.loads(run("-c", SERVER, case.path, request).splitlines()[-1])
    assert answers["generate"] == case.live(PROMPTS, **settings)
    assert answers["serving_default"] == case.live(PROMPTS, **DEFAULTS)


@pytest.mark.slow
@pytest.mark.parametrize("case", [CASES[0]], indirect=True)
def test_the_script_continues_without_tfllm(case):
    settings = {"seed": 5, "temperature": 0.7}
    options = [word for name, value in settings.items() for word in (f"--{name}", value)]
    prompt = PROMPTS[2]
    (text,) = case.live([prompt], **{**DEFAULTS, **settings})
    assert run(SCRIPT, case.path.parent, prompt, *options) == f"{prompt}{text}\n"


def test_the_script_names_a_mistake(tmp_path):
    process = subprocess.run([sys.executable, SCRIPT, tmp_path, "x"], capture_output=True, text=True)
    assert process.returncode == 2 and "holds no exported model" in process.stderr

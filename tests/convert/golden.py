"""Checkpoints of the goldens, written as files, and what transformers computed from them.

With `TFLLM_PEERS=~/peers/bin/python`, an interpreter that has PyTorch and transformers, the goldens are made anew
by it, so that the same tests compare with what transformers computes now.
"""

import functools
import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.convert.goldens.cases import CASES as DECODER_CASES
from tests.convert.goldens.cases import batch, prompts, weight
from tests.convert.goldens.encoder_cases import ENCODER_CASES
from tests.convert.goldens.encoder_decoder_cases import ENCODER_DECODER_CASES, sources, targets

CASES = {**DECODER_CASES, **ENCODER_DECODER_CASES}
SCRIPTS = Path(__file__).parent / "goldens"
PEERS = os.environ.get("TFLLM_PEERS")


@functools.cache
def folder_of(name):
    """Where the golden lies: beside its script, or, live, in a new folder."""
    if PEERS is None:
        return SCRIPTS
    folder = Path(tempfile.mkdtemp(prefix="goldens"))
    command = [Path(PEERS).expanduser(), SCRIPTS / "make_goldens.py", "--to", folder, "--cases", name]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def training_batch(name):
    """Features, what should be said int [B, T], and what it weighs [B, T]; and the mask of what is compared."""
    if name in ENCODER_DECODER_CASES:
        (asked, seen), (read, said, mask) = sources(), targets()
        arrays = {
            "encoder_token_ids": asked,
            "encoder_padding_mask": seen.astype(bool),
            "decoder_token_ids": read,
            "decoder_padding_mask": mask.astype(bool),
        }
        return arrays, said, mask, mask.astype(bool)
    tokens, mask = batch()
    weights = np.pad(mask[:, 1:] * mask[:, :-1], [[0, 0], [0, 1]])
    arrays = {"token_ids": tokens, "padding_mask": mask.astype(bool)}
    return arrays, np.roll(tokens, -1, axis=1), weights, mask.astype(bool)


def asked(name):
    """The token ids of each row that is continued or answered."""
    tokens, mask = sources() if name in ENCODER_DECODER_CASES else prompts()
    return [row[seen.astype(bool)].tolist() for row, seen in zip(tokens, mask, strict=True)]


def load_golden(name):
    with np.load(folder_of(name) / f"{name}.npz") as file:
        return dict(file)


def continued_by_transformers(folder):
    """Greedy continuations of a folder's model, and what transformers found not to fit."""
    command = [Path(PEERS).expanduser(), SCRIPTS / "continue_folder.py", folder]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def computed_by_transformers(folder, name):
    """What transformers computes from a folder and the batch of an encoder's case; `unfitting` names tensors."""
    result = folder.with_name("computed.npz")
    command = [Path(PEERS).expanduser(), SCRIPTS / "compute_folder.py", folder, name, result]
    subprocess.run(command, check=True, capture_output=True, text=True)
    with np.load(result) as file:
        return {**file, "unfitting": json.loads(str(file["unfitting"]))}


def tensors_of(name):
    """Name to array, as transformers' `named_parameters` has them."""
    shapes = json.loads(str(load_golden(name)["shapes"]))
    unit_offset = config_of(name)["model_type"].startswith("gemma")
    return {path: weight(path, tuple(shape), unit_offset=unit_offset) for path, shape in shapes.items()}


def config_of(name):
    """`config.json` as transformers 4 wrote it, or people do: the settings and the type."""
    if name in ENCODER_CASES:
        model_type, architecture, settings = ENCODER_CASES[name]
        return {"model_type": model_type, "architectures": [architecture], **settings}
    model_type, settings = CASES[name]
    return {"model_type": model_type, **settings}


def write_checkpoint(folder, name, *, config=None, tensors=None):
    """Writes a folder that holds the case; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_of(name) if config is None else config))
    save_file(tensors_of(name) if tensors is None else tensors, folder / "model.safetensors")
    return folder

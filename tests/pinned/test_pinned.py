"""What users' files depend on stays as it is: paths, new weights, masks, identities, and a run that was begun before."""

import json
import shutil

import numpy as np
import pytest

from tests.pinned import make_pinned
from tfllm.config import load_config
from tfllm.experiment.run import train
from tfllm.training.display import Display

PINNED = json.loads((make_pinned.HERE / "pinned.json").read_text())


@pytest.mark.parametrize("name", make_pinned.MODELS)
def test_variables_dropout_layers_and_new_weights_of_a_model(name):
    made, pinned = make_pinned.of_model(name), PINNED["models"][name]
    assert made["variables"] == pinned["variables"]
    assert made["dropouts"] == pinned["dropouts"]
    np.testing.assert_allclose(made["weights"], pinned["weights"], rtol=1e-4)
    np.testing.assert_allclose(made["dropped"], pinned["dropped"], atol=1e-4)


@pytest.mark.parametrize("name", make_pinned.MODELS)
def test_the_first_call_makes_the_same_paths(name):
    model = make_pinned.MODELS[name]()
    model(make_pinned.features(model))
    assert [variable.path for variable in model.variables] == PINNED["models"][name]["variables"]


def test_fingerprints_of_tokenizers(tmp_path):
    made = make_pinned.tokenizers(tmp_path)
    assert {name: tokenizer.fingerprint for name, tokenizer in made.items()} == PINNED["fingerprints"]


def test_identities_of_rows(tmp_path):
    assert make_pinned.of_rows(tmp_path) == PINNED["rows"]


def test_a_run_begun_before_goes_on_to_the_same_numbers(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(make_pinned.RUN, run)
    config = load_config(run / "config.yaml", [f"data.train.path={make_pinned.TEXT}"])
    assert train(config, run, Display(total_steps=12, silent=True)).stopped_by is None
    made, pinned = make_pinned.lines_of(run), PINNED["run"]
    assert [line["step"] for line in made] == [line["step"] for line in pinned]
    for line, expected in zip(made, pinned, strict=True):
        for key, value in expected.items():
            assert line[key] == pytest.approx(value, rel=1e-5) if key != "split" else line[key] == value

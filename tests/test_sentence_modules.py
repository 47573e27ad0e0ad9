"""Folders of sentence-transformers: the vectors are the library's own."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import tfllm
from tfllm.convert.errors import ConvertError
from tfllm.generation.errors import GenerationError

GOLDENS = Path(__file__).parent / "sentence_goldens"
VECTORS = json.loads((GOLDENS / "vectors.json").read_text())
PEERS = os.environ.get("TFLLM_PEERS")
BASES = {name: "llama" if name.startswith("decoder") else "bert" for name in VECTORS["vectors"]}


def written(name, to, goldens=GOLDENS):
    """The folder that the library wrote: what its cases share stands once."""
    shutil.copytree(goldens / BASES[name], to)
    shutil.copytree(goldens / name, to, dirs_exist_ok=True)
    return to


def load(folder):
    return tfllm.load(folder, jit_compile=False, notify=lambda note: None)


def texts_of(name, found):
    return [text for text in found["texts"] if text or BASES[name] == "bert"]


def difference(lm, name, found=VECTORS):
    return float(np.abs(lm.embed(texts_of(name, found)) - np.array(found["vectors"][name])).max())


@pytest.mark.parametrize("name", VECTORS["vectors"])
def test_vectors_are_the_librarys_and_stay_so_when_saved(name, tmp_path):
    lm = load(written(name, tmp_path / "theirs"))
    assert difference(lm, name) < 1e-5
    one = [lm.embed(text) for text in texts_of(name, VECTORS)]  # without padding
    assert np.abs(np.array(one) - np.array(VECTORS["vectors"][name])).max() < 1e-5
    lm.save(tmp_path / "ours")
    lm.save(tmp_path / "back", to="huggingface")
    for again in ("ours", "back"):
        assert difference(load(tmp_path / again), name) < 1e-5, again
    written_size = json.loads((tmp_path / "back/1_Pooling/config.json").read_text())[
        "word_embedding_dimension"
    ]
    assert written_size == lm.model.hidden_dim, "without it the library opens no folder"


@pytest.mark.skipif(PEERS is None, reason="TFLLM_PEERS is not set")
def test_live(tmp_path):
    subprocess.run([PEERS, str(GOLDENS / "make.py"), str(tmp_path)], check=True, capture_output=True)
    found = json.loads((tmp_path / "vectors.json").read_text())
    for name in found["vectors"]:
        lm = load(written(name, tmp_path / f"{name}_whole", tmp_path))
        assert difference(lm, name, found) < 1e-5, name
        lm.save(tmp_path / f"{name}_back", to="huggingface")
        script = (
            "import json, sys; from sentence_transformers import SentenceTransformer as S;"
            "print(json.dumps(S(sys.argv[1], device='cpu').encode(json.loads(sys.argv[2])).tolist()))"
        )
        if name in (
            "dense",
            "prompt",
            "decoder_last",
        ):  # the library opens what was written here; seconds each
            arguments = [str(tmp_path / f"{name}_back"), json.dumps(texts_of(name, found))]
            read = subprocess.run(
                [PEERS, "-c", script, *arguments], check=True, capture_output=True, text=True
            )
            theirs = np.array(json.loads(read.stdout.strip().splitlines()[-1]))
            assert np.abs(theirs - np.array(found["vectors"][name])).max() < 1e-5, name


def test_what_is_asked_for_goes_before_what_the_folder_says(tmp_path):
    lm = load(written("dense", tmp_path / "theirs"))
    assert lm.embed("a").shape == (8,) and lm.embed("a", pooling="mean").shape == (16,)
    plain = lm.embed("a", normalize=False)
    assert abs(np.linalg.norm(plain) - 1) > 1e-3
    np.testing.assert_allclose(lm.embed("a"), plain / np.linalg.norm(plain), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(lm.embed("a", pooling="last")), 1, atol=1e-6)


def test_prompts_are_chosen_by_name(tmp_path):
    lm = load(written("prompt", tmp_path / "theirs"))
    np.testing.assert_array_equal(lm.embed("d"), lm.embed("d", prompt_name="query"))
    assert np.abs(lm.embed("d") - lm.embed("d", prompt_name="other")).max() > 1e-3
    with pytest.raises(
        GenerationError, match="prompt_name='x' is not one of the checkpoint's prompts; there are"
    ):
        lm.embed("d", prompt_name="x")


def test_the_older_layout_of_files_says_the_same(tmp_path):
    folder = written("two_and_normalize", tmp_path / "theirs")
    sub = tmp_path / "older" / "0_Transformer"
    sub.mkdir(parents=True)
    for path in folder.iterdir():
        if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json"):
            shutil.copy(path, sub / path.name)
    modules = [
        {"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    (tmp_path / "older" / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "older" / "1_Pooling").mkdir()
    switches = {
        "word_embedding_dimension": 16,
        "pooling_mode_cls_token": True,
        "pooling_mode_mean_tokens": True,
    }
    (tmp_path / "older" / "1_Pooling" / "config.json").write_text(json.dumps(switches))
    (sub / "sentence_bert_config.json").write_text('{"max_seq_length": 6, "do_lower_case": true}')
    lm = load(tmp_path / "older")
    # Its switches put cls before mean.
    now = load(folder).embed("a b")
    np.testing.assert_allclose(lm.embed("a b"), np.concatenate([now[16:], now[:16]]), atol=1e-6)
    np.testing.assert_array_equal(lm.embed("a b c d"), lm.embed("A B C D E F G"))


def changed(folder, file, **values):
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f: changed(f, "1_Pooling/config.json", pooling_mode="attention"),
            "pooling_mode='attention' is not computed",
        ),
        (
            lambda f: changed(
                f, "2_Dense/config.json", activation_function="torch.nn.modules.activation.PReLU"
            ),
            "PReLU",
        ),
        (
            lambda f: changed(f, "2_Dense/config.json", out_features=9),
            r"must be those of a layer of \(9, 16\)",
        ),
        (
            lambda f: changed(f, "2_Dense/config.json", module_input_name="token_embeddings"),
            "module_input_name=",
        ),
        (
            lambda f: changed(f, "sentence_bert_config.json", transformer_task="fill-mask"),
            "transformer_task='fill-mask'",
        ),
        (lambda f: changed(f, "sentence_bert_config.json", max_seq_length=-1), "max_seq_length=-1 must be"),
        (
            lambda f: changed(f, "config_sentence_transformers.json", default_prompt_name="x"),
            "default_prompt_name='x'",
        ),
        (
            lambda f: changed(f, "sentence_bert_config.json", max_seq_length=float("nan")),
            "max_seq_length=nan must",
        ),
        (
            lambda f: changed(f, "config_sentence_transformers.json", default_prompt_name={}),
            "default_prompt_name={}",
        ),
        (
            lambda f: changed(f, "sentence_bert_config.json", modality_config={"text": [1]}),
            "modality_config=",
        ),
        (lambda f: changed(f, "config_sentence_transformers.json", prompts=[1]), r"prompts=\[1\] must give"),
        (lambda f: (f / "modules.json").write_text("{}"), "must hold a list"),
        (lambda f: (f / "modules.json").write_text("[" * 200_000), "is not a JSON file"),
        (lambda f: (f / "modules.json").write_text("[]"), "must name modules"),
        (lambda f: (f / "modules.json").write_text("[5]"), "5 must be a module with a type and a path"),
        (
            lambda f: module(f, 1, path="../1_Pooling"),
            "must be a module with a type and a path in the folder",
        ),
        (
            lambda f: module(f, 3, type="sentence_transformers.models.Router"),
            "'sentence_transformers.models.Router' is not",
        ),
        (lambda f: module(f, 2, type="mine.Dense"), "'mine.Dense' is code of the checkpoint's own"),
        (
            lambda f: module(f, 1, type="sentence_transformers.models.WordWeights"),
            "must be a Transformer, a Pooling",
        ),
        (lambda f: (f / "1_Pooling" / "config.json").unlink(), "is not a JSON file"),
        (
            lambda f: (f / "2_Dense" / "model.safetensors").rename(f / "2_Dense" / "pytorch_model.bin"),
            "as a pickle",
        ),
    ],
)
def test_what_is_not_computed_is_refused_by_name(change, message, tmp_path):
    folder = written("dense", tmp_path / "theirs")
    change(folder)
    with pytest.raises(ConvertError, match=message):
        load(folder)


def module(folder, index, **values):
    path = folder / "modules.json"
    modules = json.loads(path.read_text())
    modules[index].update(values)
    path.write_text(json.dumps(modules))

"""Files beside the weights that decide the result: what ends a text, the output layer, and a tokenizer that is not there."""

import json
import shutil

import numpy as np
import pytest

import tfllm
from tests.convert.golden import write_checkpoint
from tests.tiny import tiny_lm, weights
from tfllm.commands.main import main
from tfllm.config import config_from_mapping
from tfllm.convert.errors import ConvertError
from tfllm.convert.safetensors_files import SafetensorsFiles, write_safetensors
from tfllm.experiment.model_source import expand
from tfllm.experiment.stop_tokens import named_ids, names_of_ids, stop_ids
from tfllm.generation.errors import GenerationError
from tfllm.tokenizers import TokenizerError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("sidecars") / "theirs"
    tiny_lm().save(where, to="huggingface")
    return where


def loaded(folder, notify=lambda note: None):
    return tfllm.load(folder, jit_compile=False, notify=notify)


def with_settings(folder, tmp_path, **settings):
    shutil.copytree(folder, tmp_path / "theirs")
    (tmp_path / "theirs" / "generation_config.json").write_text(json.dumps(settings))
    return tmp_path / "theirs"


def ends_of(lm):
    return set(stop_ids(lm.tokenizer, lm.config.generation.stop_tokens))


def test_an_ordinary_token_that_ends_texts_ends_them_wherever_they_are_made(folder, tmp_path):
    ids = loaded(folder).generator([[3, 4]], max_new_tokens=6, temperature=0.0, top_p=1.0)[0]
    end = ids[2]
    assert end not in loaded(folder).tokenizer.special_ids
    kept = ids[: ids.index(end)]
    there = with_settings(folder, tmp_path, eos_token_id=[loaded(folder).tokenizer.eos_id, end])
    lm = loaded(there)
    lm.save(tmp_path / "ours")
    lm.save(tmp_path / "back", to="huggingface")
    for each in (lm, loaded(tmp_path / "ours"), loaded(tmp_path / "back")):
        assert end in ends_of(each)
        assert each.generator([[3, 4]], max_new_tokens=6, temperature=0.0, top_p=1.0) == [kept]
    assert end in json.loads((tmp_path / "back" / "generation_config.json").read_text())["eos_token_id"]
    # And in a training that begins here, for its samples and what is made of the run.
    for source in (there, tmp_path / "ours"):
        sections = {
            "model": {"type": "pretrained", "source": str(source)},
            "data": {"train": "python_docs", "seq_len": 16},
            "generation": {"max_new_tokens": 4},
        }
        config = expand(config_from_mapping({"name": "ft", **sections}))
        assert end in stop_ids(lm.tokenizer, config.generation.stop_tokens)


def test_every_id_of_the_vocabulary_has_a_name_that_is_read_back(folder):
    tokenizer = loaded(folder).tokenizer
    ids = list(range(tokenizer.vocab_size))
    assert named_ids(tokenizer, names_of_ids(tokenizer, ids)) == ids
    with pytest.raises(
        GenerationError, match="'no such' is not a special token, nor any other that stands alone"
    ):
        named_ids(tokenizer, ["no such"])


@pytest.mark.parametrize(
    "value", [-1, 10**6, True, 1.5, "2", [[3]], [1, -1], {"a": 1}, [True], [None], 2**63]
)
def test_what_is_no_id_is_one_message(value, folder, tmp_path, capsys):
    there = with_settings(folder, tmp_path, eos_token_id=value)
    with pytest.raises(
        ConvertError, match=r"generation_config\.json: eos_token_id=.* must be an id from 0 to 289"
    ):
        loaded(there)
    assert main(["generate", str(there), "a"]) != 0
    assert "Traceback" not in capsys.readouterr().err


def test_where_no_file_says_what_ends_a_turn_its_name_does(folder, tmp_path):
    there = with_settings(folder, tmp_path, do_sample=False)
    path = there / "config.json"
    path.write_text(
        json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "eos_token_id"})
    )
    lm = loaded(there)
    assert lm.tokenizer.special_tokens["<|end|>"] in ends_of(lm)


def test_an_output_layer_that_differs_from_its_tied_embedding_is_loaded_apart(tmp_path):
    tiny_lm(tie_embeddings=True).save(tmp_path / "tied", to="huggingface")
    files = SafetensorsFiles(tmp_path / "tied")
    tensors = {name: files.read(name) for name in files.shapes}
    embedding = tensors["model.embed_tokens.weight"]
    assert json.loads((tmp_path / "tied" / "config.json").read_text())["tie_word_embeddings"] is True

    def written(head):
        for old in (tmp_path / "tied").glob("*.safetensors*"):
            old.unlink()
        write_safetensors(tmp_path / "tied", iter({**tensors, "lm_head.weight": head}.items()))
        notes = []
        return loaded(tmp_path / "tied", notes.append), notes

    lm, notes = written(embedding)
    assert (lm.config.model.tie_embeddings, notes) == (True, [])
    lm, notes = written(embedding * 2)
    assert lm.config.model.tie_embeddings is False
    assert notes == [
        "tie_word_embeddings=True, but lm_head.weight differs from model.embed_tokens.weight: the two were loaded apart"
    ]
    np.testing.assert_array_equal(weights(lm.model)["decoder/output_projection/kernel"], embedding.T * 2)
    lm.save(tmp_path / "again", to="huggingface")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["tie_word_embeddings"] is False


def test_a_folder_without_a_tokenizer_is_a_model_without_text(folder, tmp_path, capsys):
    with_settings(folder, tmp_path, eos_token_id=[5, 7])
    there = tmp_path / "theirs"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (there / name).unlink()
    notes = []
    lm = loaded(there, notes.append)
    assert len(notes) == 1 and "holds no tokenizer" in notes[0]
    ids = lm.generator([[3, 4]], max_new_tokens=4, temperature=0.0, top_p=1.0)
    assert len(ids[0]) <= 4
    lm.save(tmp_path / "ours")
    lm.save(tmp_path / "back", to="huggingface")
    settings = json.loads((tmp_path / "back" / "generation_config.json").read_text())
    assert settings["eos_token_id"] == [5, 7] and settings["bos_token_id"] is None
    for again in (lm, loaded(tmp_path / "ours"), loaded(tmp_path / "back")):
        assert again.generator([[3, 4]], max_new_tokens=4, temperature=0.0, top_p=1.0) == ids
        for asked in (
            lambda lm: lm.generate("a"),
            lambda lm: lm.generate("a", chat=True),
            lambda lm: lm.embed("a"),
            lambda lm: lm.encode("a"),
        ):
            with pytest.raises(
                TokenizerError, match="has no tokenizer, which reading and writing text needs"
            ):
                asked(again)
    assert main(["inspect", str(there)]) == 0
    assert main(["convert", str(there), str(tmp_path / "more"), "--to", "huggingface"]) == 0
    capsys.readouterr()
    for command in (["generate", str(there), "a"], ["export", str(there), "--to", str(tmp_path / "served")]):
        assert main(command) != 0
        assert "has no tokenizer, which reading and writing text needs" in capsys.readouterr().err


@pytest.mark.slow
def test_encoders_without_a_tokenizer(tmp_path):
    there = write_checkpoint(tmp_path / "bert", "bert")
    lm = loaded(there)
    lm.save(tmp_path / "ours")
    for path, value in weights(lm.model).items():
        np.testing.assert_array_equal(value, weights(loaded(tmp_path / "ours").model)[path], path)

"""`generation_config.json`: what is written is read back, and what is not understood is said."""

import json

import pytest

from tfllm.convert.errors import ConvertError
from tfllm.convert.generation_config import GENERATION_FILE, GenerationFile, end_ids, write_generation_file

SAMPLED = {"temperature": 0.7, "top_k": 0, "top_p": 0.9, "max_new_tokens": 5, "repetition_penalty": 1.2}
LIKELIEST = {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 5, "repetition_penalty": 1.0}


def written(folder, section, **tokens):
    tokens = {"bos_id": 1, "end_ids": [2], "pad_id": 0, **tokens}
    write_generation_file(folder, {"top_k": 50, **section}, **tokens)
    return json.loads((folder / GENERATION_FILE).read_text())


def said(folder, **says):
    (folder / GENERATION_FILE).write_text(json.dumps(says))
    return GenerationFile(folder)


@pytest.mark.parametrize("section", [SAMPLED, LIKELIEST])
def test_what_is_written_is_read_back(section, tmp_path):
    written(tmp_path, section, end_ids=[2, 5, 2])
    file = GenerationFile(tmp_path)
    assert (file.section(), file.end_ids(6), file.notes()) == (section, [2, 5], [])


def test_tokens_are_written_as_transformers_has_them(tmp_path):
    assert written(tmp_path, LIKELIEST)["eos_token_id"] == 2
    assert written(tmp_path, LIKELIEST, end_ids=[])["eos_token_id"] is None
    assert "decoder_start_token_id" not in written(tmp_path, LIKELIEST)
    assert written(tmp_path, LIKELIEST, decoder_start_id=0)["decoder_start_token_id"] == 0
    assert "temperature" not in written(tmp_path, LIKELIEST)


def test_where_there_is_no_file_the_likeliest_token_is_taken(tmp_path):
    file = GenerationFile(tmp_path)
    assert (file.section(), file.end_ids(9), file.notes()) == ({"temperature": 0.0, "top_p": 1.0}, None, [])


def test_what_is_not_understood_is_said(tmp_path):
    file = said(tmp_path, do_sample=True, top_k=3, num_beams=4, use_cache=True, penalty_alpha=None, early=[])
    assert file.section() == {"temperature": 1.0, "top_k": 3, "top_p": 1.0}
    assert file.notes() == [
        "generation_config.json: num_beams=4 concerns generation and is not implemented; it was left aside"
    ]


@pytest.mark.parametrize(
    ("says", "words"),
    [
        ({"temperature": "hot"}, "temperature='hot' must be a number"),
        ({"top_p": float("nan")}, "top_p=nan must be a number"),
        ({"max_new_tokens": True}, "max_new_tokens=True must be a number"),
    ],
)
def test_what_is_damaged_is_refused(says, words, tmp_path):
    with pytest.raises(ConvertError, match=words):
        said(tmp_path, **says)
    (tmp_path / GENERATION_FILE).write_text("[]")
    with pytest.raises(ConvertError, match="must hold a mapping, not list; download it again"):
        GenerationFile(tmp_path)


def test_ids_of_an_end_are_one_or_several():
    assert end_ids("x", {"eos_token_id": 3}, 4) == [3]
    assert end_ids("x", {"eos_token_id": [3, 0, 3]}, 4) == [3, 0]
    assert end_ids("x", {"eos_token_id": None}, 4) is None
    with pytest.raises(ConvertError, match=r"eos_token_id=4 must be an id from 0 to 3, or a list of such"):
        end_ids("x", {"eos_token_id": 4}, 4)

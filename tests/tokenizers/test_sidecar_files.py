"""What stands beside a tokenizer: roles that are left open, chat templates by name, tokens that end a turn."""

import json

import pytest

from tfllm.tokenizers import ByteBPETokenizer, ByteTokenizer, NoTokenizerError, TokenizerError, read_tokenizer
from tfllm.tokenizers.chat import ChatTemplate, encode_chat, encode_prompt
from tfllm.tokenizers.end_of_turn import end_names
from tfllm.tokenizers.files.gguf import end_token_ids, read_gguf_tokenizer

CHAT = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def trained():
    names = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
    return ByteBPETokenizer.train(["hello hello"] * 5, vocab_size=280, extra_special_tokens=names)


@pytest.fixture
def qwen(trained, tmp_path):
    """A folder that has no token for the start of a text, as Qwen's."""
    trained.save(tmp_path)
    config = {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({**config, "chat_template": "[{{ bos_token }}]"})
    )
    return tmp_path


def test_a_role_that_is_left_open_is_left_open(qwen, tmp_path):
    tokenizer = read_tokenizer(qwen)
    assert tokenizer.bos_token == "<|endoftext|>"  # plays it in rows of training
    assert (tokenizer.unset_roles, "bos_token" in tokenizer.shown_roles) == ({"bos_token"}, False)
    assert ChatTemplate.of(tokenizer).render(CHAT) == "[]"
    tokenizer.chat_template = "{{ 'none' if bos_token is not defined else bos_token }}{{ eos_token }}"
    assert ChatTemplate.of(tokenizer).render(CHAT) == "none<|im_end|>"
    again = tmp_path / "again"
    tokenizer.save(again)
    assert json.loads((again / "tokenizer_config.json").read_text())["bos_token"] is None
    assert read_tokenizer(again).fingerprint == tokenizer.fingerprint
    assert read_tokenizer(again).unset_roles == {"bos_token"}


def test_roles_that_are_given_or_go_by_their_usual_names_stay(trained, tmp_path):
    trained.save(tmp_path)
    assert read_tokenizer(tmp_path).unset_roles == frozenset()
    (tmp_path / "tokenizer_config.json").unlink()
    assert read_tokenizer(tmp_path).unset_roles == frozenset()
    assert read_tokenizer(tmp_path).bos_token == "<|bos|>"
    (tmp_path / "tokenizer_config.json").write_text(
        '{"eos_token": "<|eos|>"}'
    )  # says how texts begin and end
    assert read_tokenizer(tmp_path).unset_roles == {"bos_token"}


def test_named_templates_come_from_the_config_and_from_files(trained, tmp_path):
    trained.save(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text())
    named = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T{{ tools | length }}"}]
    path.write_text(json.dumps({**config, "chat_template": named}))
    tokenizer = read_tokenizer(tmp_path)
    assert tokenizer.chat_template == {"default": "D", "tool_use": "T{{ tools | length }}"}
    assert tokenizer.decode(encode_prompt(tokenizer, CHAT, tools=[{}])) == "T1"
    assert tokenizer.decode(encode_prompt(tokenizer, CHAT)) == "D"
    tokenizer.save(tmp_path / "again")
    assert read_tokenizer(tmp_path / "again").chat_template == tokenizer.chat_template
    folder = tmp_path / "additional_chat_templates"
    folder.mkdir()
    (folder / "rag.jinja").write_text("R")
    (tmp_path / "chat_template.jinja").write_text("from a file")
    assert read_tokenizer(tmp_path).chat_template == {"default": "from a file", "rag": "R"}


def test_a_template_beside_a_processor(trained, tmp_path):
    trained.save(tmp_path)
    (tmp_path / "chat_template.json").write_text('{"chat_template": "P"}')
    assert read_tokenizer(tmp_path).chat_template == "P"


@pytest.mark.parametrize("value", [{"default": 1}, [{"name": "x"}], [], 5, {}])
def test_templates_that_are_none(value, trained, tmp_path):
    trained.save(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": value}))
    with pytest.raises(TokenizerError, match="must be a text, or a list of names and templates"):
        read_tokenizer(tmp_path)


@pytest.fixture
def fields(trained):
    tokens = sorted(trained.vocab, key=trained.vocab.__getitem__)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.eos_token_id": trained.special_tokens["<|endoftext|>"],
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in trained.special_tokens else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in trained.merges],
    }


def test_the_ends_of_a_gguf_are_those_of_llama_cpp(fields, trained):
    def ends(**more):
        given = {**fields, **{f"tokenizer.ggml.{key}": value for key, value in more.items()}}
        return set(end_token_ids(given, lambda key: given.get(key, [])))

    special = trained.special_tokens
    by_name = {special["<|im_end|>"], special["<|endoftext|>"]}
    assert ends() == by_name
    assert ends(eot_token_id=5, eom_token_id=6) == by_name | {5, 6}
    assert ends(eos_token_ids=[7, 8]) == by_name | {7, 8}
    assert ends(eot_token_id=10**6, eom_token_id=-1) == by_name  # "bad special token", and passed over
    ordinary = [1] * len(fields["tokenizer.ggml.tokens"])
    assert ends(token_type=ordinary) == by_name


def test_names_that_others_take_the_place_of():
    assert end_names(["<|end|>", "<|im_end|>", "x"]) == ["<|im_end|>", "<|end|>"]
    assert end_names(["<|end|>", "<|return|>", "<|call|>"]) == ["<|return|>", "<|call|>"]
    assert end_names(["</s>", "<|tool_response>"]) == ["<|tool_response>"]


def test_named_templates_and_open_roles_of_a_gguf(fields):
    fields |= {
        "tokenizer.chat_template": "D",
        "tokenizer.chat_templates": ["tool_use"],
        "tokenizer.chat_template.tool_use": "T",
    }
    tokenizer = read_gguf_tokenizer(fields, lambda key: fields.get(key, []), "model.gguf")
    assert tokenizer.chat_template == {"default": "D", "tool_use": "T"}
    assert "bos_token" in tokenizer.unset_roles and "eos_token" not in tokenizer.unset_roles
    fields["tokenizer.chat_template.tool_use"] = 5
    with pytest.raises(TokenizerError, match=r"tokenizer\.chat_template\.tool_use=5 must be a text"):
        read_gguf_tokenizer(fields, lambda key: fields.get(key, []), "model.gguf")


def test_a_folder_without_a_tokenizer_says_so(tmp_path):
    with pytest.raises(NoTokenizerError, match="holds no tokenizer"):
        read_tokenizer(tmp_path)
    with pytest.raises(NoTokenizerError, match=r"tokenizer\.ggml\.model=None"):
        read_gguf_tokenizer({}, lambda key: [], "model.gguf")


def test_an_assistant_that_speaks_first_is_masked_alone():
    tokenizer = ByteTokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}<user>{{ m.content }}{% endif %}{% endfor %}"
    )
    _, mask = encode_chat(
        tokenizer, [{"role": "assistant", "content": "A"}, {"role": "user", "content": "u m"}]
    )
    assert mask == [True] + [False] * 9

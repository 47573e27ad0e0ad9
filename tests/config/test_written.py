"""What stands in YAML is read as its key declares it, whatever YAML would guess."""

import pytest
import yaml

from tests.config.minimal import minimal
from tfllm.config import ConfigError, config_from_mapping, load_config, save_config
from tfllm.config.build import to_mapping
from tfllm.config.written import Written, read_yaml, yaml_text

# YAML 1.1 makes numbers, dates, minutes, true and false of these.
TEXTS = [
    "2024_01_05",
    "1.10",
    "0x1F",
    "012",
    "1_000",
    "2024-01-05",
    "1e5",
    "5",
    "yes",
    "Off",
    "n",
    "1e3",
    "0b2",
]


def error_of(mapping, overrides=()):
    with pytest.raises(ConfigError) as caught:
        config_from_mapping(mapping, overrides)
    return str(caught.value)


def file_error(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "c.yaml")
    message = str(caught.value)
    assert message.startswith(("1 problem in ", "2 problems in "))
    return message


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_keeps_its_characters(text, tmp_path):
    assert config_from_mapping(minimal(), [f"name={text}"]).name == text
    (tmp_path / "c.yaml").write_text(
        f"name: {text}\ndata: {{train: {{type: text_files, path: [{text}, b]}}, seq_len: 64}}\n"
        f"generation: {{max_new_tokens: 8, prompts: [{text}]}}\n"
    )
    config = load_config(tmp_path / "c.yaml")
    assert (config.name, config.data.train.path, config.generation.prompts) == (text, (text, "b"), (text,))
    assert type(config.name) is str


@pytest.mark.parametrize(
    "text", [*TEXTS, "true", "null", "~", "None", "12:30:45", "", " a", "#a", "a: b", "é\n", "-"]
)
def test_every_text_reads_back_equal(text, tmp_path):
    mapping = minimal(generation={"prompts": [text], "max_new_tokens": 8})
    mapping["data"] = {
        "train": {"type": "jsonl", "path": text, "text_key": text},
        "cache_dir": text,
        "seq_len": 64,
    }
    config = config_from_mapping(mapping)
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    (tmp_path / "old.yaml").write_text(
        yaml.safe_dump(to_mapping(config), allow_unicode=True)
    )  # as earlier versions did
    assert text == "None" or load_config(tmp_path / "old.yaml") == config


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("1e3", 1000),
        ("1_000", 1000),
        ("1E3", 1000),
        ("2.0", 2),
        ("0x10", 16),
        ("0b11", 3),
        ("+7", 7),
        ("1.5e1", 15),
    ],
)
def test_a_whole_number_may_be_written_in_every_way(written, number, tmp_path):
    assert config_from_mapping(minimal(), [f"training.steps={written}"]).training.steps == number
    (tmp_path / "c.yaml").write_text(
        f"name: x\ndata: {{train: python_docs}}\ntraining: {{steps: {written}}}\n"
    )
    assert load_config(tmp_path / "c.yaml").training.steps == number


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.steps=010", "must be a whole number; write it without the zeros in front"),
        ("training.steps=12:30", "training.steps=12:30 must be a whole number"),
        ("training.steps=1e400", "must be a whole number"),
        ("training.steps=99999999999999999999", "must be a whole number; write at most 9223372036854775807"),
        ("training.steps=" + "9" * 5000, "must be a whole number; write at most 9223372036854775807"),
        ("training.steps=1e-3", "must be a whole number"),
        ("training.steps=٣", "must be a whole number"),
        ("training.steps=2024-01-05", "training.steps=2024-01-05 must be a whole number"),
        ("training.steps=0b2", "training.steps=0b2 must be a whole number"),
        ("training.steps=None", "training.steps=None is Python's word; leave the key out"),
        ("training.steps=1_e3", "must be a whole number"),
        ("training.steps=1_", "must be a whole number"),
        ("optimizer.learning_rate=0_e0", "must be a finite number"),
        ("optimizer.learning_rate=.nan", "must be a finite number"),
        ("optimizer.clip_norm=None", "optimizer.clip_norm=None is Python's word; write null"),
        ("training.best_metric=None", "training.best_metric=None is Python's word; write null, or \"None\" with its"),
        ("data.validation=None", "data.validation=None is Python's word; write null"),
        ("training.microbatch_size=None", "write null"),
        ("name=null", "name=null must be text"),
        ("name=", "name=null must be text"),
        ("optimizer.groups[0].freeze=true", "names one of a list; write the whole list, optimizer.groups=[...]"),
        ("data.train.sources.0.weight=2", "write the whole list, data.train.sources=[...]"),
        ("training..steps=1", "is not an override"),
        ("data.train.path=*.txt", "put it in quotes inside the shell's: 'data.train.path=\"*.txt\"'"),
        ("data.train.path=a #b.txt", "has a comment to YAML from the # on; put it in quotes"),
        ("name=!!python/object/apply:os.system [ls]", "name=!!python/object/apply:os.system is a kind of value"),
        ("training.steps=!!timestamp 2024-13-45", "must be a whole number"),
        ("name=" + "[" * 5000, "is not a YAML value"),
    ],
)  # fmt: skip
def test_what_yaml_would_guess_or_choke_on_is_one_problem(override, words):
    assert words in error_of(
        minimal(data={"train": {"type": "text_files", "path": "a"}, "seq_len": 64}), [override]
    )


def test_numbers_and_words_without_a_declared_type_are_guessed():
    model = {"type": "keras_nlp", "backbone": "B"}
    words = "model.arguments={a: 1e-3, b: 8, c: yes, d: [x, '8', 012], e: {f: null}, g: 0x10}"
    mapping = minimal(model=model, data={"train": "python_docs", "packing": False, "seq_len": 64})
    arguments = config_from_mapping(mapping, [words], for_training=False).model.arguments
    wanted = {"a": 0.001, "b": 8, "c": True, "d": ["x", "8", "012"], "e": {"f": None}, "g": 16}
    assert arguments == wanted and [type(v) for v in arguments.values()] == [type(v) for v in wanted.values()]
    assert all(type(item) is str for item in arguments["d"])
    assert read_yaml(yaml_text({"d": ["8", "1e-3"]}), []) == {"d": ["8", "1e-3"]}
    assert not isinstance(read_yaml(yaml_text(["1e-3"]), [])[0], Written)


BASE = "name: x\ndata: {train: python_docs}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BASE + "seed: !!python/object/new:os.system [ls]\n", "seed=!!python/object/new:os.system is a kind of value"),
        (BASE + "training: {steps: !!binary aGk=}\n", "training.steps=!!binary is a kind of value that no key takes"),
        (BASE + "? [a, b]\n: 1\n", "has a list or a section for a key"),
        (BASE + "training: {? {a: 1} : 2}\n", "training has a list or a section for a key"),
        (BASE + "training:\n  steps: 1\n  steps: 2\n", "training.steps is written twice (line 5, column 3)"),
        (BASE + "training: {<<: 5}\n", "training.<<=5 must name a section"),
        (BASE + "generation:\n\tseed: 1\n", "line 4, column 1 is not YAML"),
        (BASE + "generation:\n\tseed: 1\n", "write spaces, not tabs"),
        (BASE + "---\n" + BASE, "keep one document"),
        (BASE + "seed: \x00\n", "without control characters"),
        (BASE + "path: *.txt\n", "put a text that begins with * or & in quotes"),
        (BASE + "seed: &a [*a]\n", "nested more than 50 levels deep"),
        (BASE + "training: &a {<<: *a}\n", "nested more than 50 levels deep"),
        (BASE + "seed: " + "[" * 3000 + "]" * 3000, "nested more than 50 levels deep"),
        (BASE + "seed: 2024-13-45\n", "seed=2024-13-45 must be a whole number"),
        ("name: x\n  data: y\n", "line 2"),
    ],
)  # fmt: skip
def test_whatever_yaml_raises_is_a_problem(tmp_path, text, words):
    assert words in file_error(tmp_path, text)


@pytest.mark.parametrize("kind", ["list", "merge"])
def test_aliases_cannot_multiply_without_end(tmp_path, kind):
    lines = ["a0: &a0 {x: 1}"]
    for level in range(1, 12):
        names = ", ".join([f"*a{level - 1}"] * 10)
        value = f"[{names}]" if kind == "list" else f"{{<<: [{names}]}}"
        lines.append(f"a{level}: &a{level} {value}")
    assert "more than 100,000 values" in file_error(tmp_path, BASE + "\n".join(lines))


def test_a_byte_order_mark_and_windows_lines_are_no_mistake(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"\xef\xbb\xbfname: x\r\ndata:\r\n  train: python_docs\r\n")
    assert load_config(tmp_path / "c.yaml").name == "x"
    (tmp_path / "c.yaml").write_bytes(BASE.encode("utf-16"))
    with pytest.raises(ConfigError, match="give a readable UTF-8 YAML file"):
        load_config(tmp_path / "c.yaml")


def test_an_equals_sign_may_stand_in_a_value():
    assert config_from_mapping(minimal(), ["data.cache_dir=a=b", "model.size=mini"]).data.cache_dir == "a=b"


def test_of_two_merged_sections_the_first_counts(tmp_path):
    text = "name: x\ndata: {train: python_docs}\ntraining: {<<: [{steps: 5}, {steps: 6, log_every: 3}], seed: 0}\n"
    (tmp_path / "c.yaml").write_text(text.replace(", seed: 0", ""))
    training = load_config(tmp_path / "c.yaml").training
    assert (training.steps, training.log_every) == (5, 3)

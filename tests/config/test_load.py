import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.config.minimal import minimal
from tfllm.config import ConfigError, config_from_mapping, load_config

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


def error_of(path, overrides=()):
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_yaml_in_configs_loads(path):
    config = load_config(path)
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["name"] == config.name


def test_there_are_configs():
    assert CONFIGS


def test_broken_yaml_names_its_line(tmp_path):
    message = error_of(write(tmp_path / "c.yaml", "name: x\ndata:\n  train: [a\ntraining: {}\n"))
    assert "line 4" in message
    assert "is not YAML" in message
    assert str(tmp_path / "c.yaml") in message


def test_a_key_written_twice_is_a_mistake(tmp_path):
    text = "name: x\ntraining: {steps: 5}\ndata: {train: python_docs}\ntraining: {log_every: 2}\n"
    message = error_of(write(tmp_path / "c.yaml", text))
    assert "line 4" in message
    assert "training" in message
    assert "twice" in message


def test_a_merge_key_may_be_overridden(tmp_path):
    text = "name: x\ndata: {train: python_docs, seq_len: 512}\ntraining: {<<: {steps: 5, log_every: 3}, steps: 6}\n"
    training = load_config(write(tmp_path / "c.yaml", text)).training
    assert (training.steps, training.log_every) == (6, 3)


def test_a_missing_file_names_its_neighbours(tmp_path):
    write(tmp_path / "near.yaml", "name: x\n")
    message = error_of(tmp_path / "far.yaml")
    assert "does not exist" in message
    assert "near.yaml" in message
    assert "does not exist" in error_of(tmp_path / "no" / "far.yaml")


def test_what_cannot_be_read_is_told(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"name: \xff\xfe\n")
    assert "cannot be read" in error_of(tmp_path / "c.yaml")
    assert "cannot be read" in error_of(tmp_path)


@pytest.mark.parametrize("text", ["", "just words", "- a\n- b\n", "5"])
def test_a_file_without_sections_is_told(text, tmp_path):
    assert "must hold sections" in error_of(write(tmp_path / "c.yaml", text))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "training.steps",
            "training.steps is not an override; write for example optimizer.learning_rate=3e-4",
        ),
        ("=5", "=5 is not an override"),
        ("data.train.path=[a", "data.train.path=[a is not a YAML value; put it in quotes"),
        ("trainin.steps=5", "did you mean training?"),
    ],
)
def test_broken_overrides_are_told_all_at_once(override, words):
    with pytest.raises(ConfigError) as caught:
        config_from_mapping(minimal(), [override, "seed=x"])
    assert words in str(caught.value)
    assert "seed=x must be a whole number" in str(caught.value)


def test_the_last_of_two_overrides_wins():
    assert config_from_mapping(minimal(), ["seed=1", "seed=2"]).seed == 2


def test_overrides_reach_into_sections_that_are_not_written():
    config = config_from_mapping(
        minimal(), ["optimizer.schedule.type=wsd", "optimizer.schedule.warmup_steps=3"]
    )
    assert (config.optimizer.schedule.type, config.optimizer.schedule.warmup_steps) == ("wsd", 3)


def test_overrides_do_not_change_the_mapping_they_are_given():
    mapping = minimal()
    config_from_mapping(mapping, ["data.seq_len=32"])
    assert mapping == minimal()


@pytest.mark.parametrize(
    "statement",
    [
        "import tfllm, tfllm.config, tfllm.commands.main",
        "from tfllm.commands.main import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from tfllm.commands.main import main; assert main(['train', 'no.yaml']) == 2",
        "from tfllm.commands.main import main; assert main(['inspect', 'configs/quickstart.yaml', 'seed=x']) == 2",
    ],
)
def test_help_and_checks_come_before_tensorflow(statement):
    program = f"{statement}\nimport sys\nheavy = {{'tensorflow', 'keras'}} & set(sys.modules)\nassert not heavy, heavy"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_held_out_text_without_a_type_is_read_as_the_training_text():
    train = {"type": "csv", "path": "a.csv", "columns": {"text": "review"}, "delimiter": ";"}
    given = minimal(data={"train": train, "validation": {"path": "b.csv"}})
    held = config_from_mapping(given).data.validation
    assert (held.path, held.columns, held.delimiter) == (("b.csv",), {"text": "review"}, ";")
    assert given["data"]["validation"] == {"path": "b.csv"}, "the mapping stays as it is"
    alone = config_from_mapping(minimal(data={"train": train}), ["data.validation.path=c.csv"])
    assert alone.data.validation.path == ("c.csv",) and alone.data.validation.delimiter == ";"
    other = {"type": "jsonl", "path": "b.jsonl"}
    assert (
        config_from_mapping(minimal(data={"train": train, "validation": other})).data.validation.columns == {}
    )
    mixture = {"type": "mixture", "sources": [{"weight": 1, "source": train}]}
    with pytest.raises(ConfigError, match=r"data\.validation\.type is required"):
        config_from_mapping(minimal(data={"train": mixture, "validation": {"path": "b.csv"}}))

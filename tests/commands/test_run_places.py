"""A run and its text, wherever they lie and whatever they are called."""

import json
import logging
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tests.marks import mostly_slow
from tfllm.commands.evaluate import are_own
from tfllm.experiment.run_folder import RunFolder
from tfllm.training.checkpoint import checkpoint_paths
from tfllm.training.metrics_log import MetricsLog, read_metrics

NAMES = ["a*b?", "{c},[", "back\\slash", "new\nline", "é 漢 "]


@pytest.fixture(scope="module")
def place(config_file, tmp_path_factory):
    """A folder with a config, its text under a relative path, and a run that was trained there."""
    from tfllm.commands.main import main

    folder = tmp_path_factory.mktemp("places") / "proj"
    (folder / "w [x]").mkdir(parents=True)
    config = yaml.safe_load(config_file.read_text())
    shutil.copy(config["data"]["train"]["path"], folder / "w [x]" / "a.txt")
    config["data"]["train"]["path"] = "w [x]/a.txt"
    (folder / "c.yaml").write_text(yaml.safe_dump(config))
    before = os.getcwd()
    os.chdir(folder)
    try:
        assert main(["train", "c.yaml", "--run-dir", "runs/exp [v2]"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def copy(place, tmp_path):
    """A copy of the folder, as a project that was moved; the first one stays out of reach."""
    shutil.copytree(place, tmp_path / "moved")
    hidden = place.with_name("hidden")
    place.rename(hidden)
    yield tmp_path / "moved"
    hidden.rename(place)


@pytest.mark.parametrize("name", mostly_slow(NAMES, NAMES[::3]))
def test_a_run_folder_may_have_any_name(tfllm, run_dir, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exp v").mkdir()
    shutil.copytree(run_dir, Path(name))
    run = f"./{name}"
    expected = tfllm("evaluate", run_dir)
    assert tfllm("evaluate", run) == (0, expected[1], "")


@pytest.mark.slow
def test_a_run_in_brackets_goes_on(tfllm, place, monkeypatch):
    monkeypatch.chdir(place)
    shutil.copytree("runs/exp [v2]", "runs/go [on]")
    status, _, err = tfllm("train", "c.yaml", "training.steps=8", "--run-dir", "runs/go [on]")
    assert status == 0 and "going on from" in err
    status, out, _ = tfllm("generate", "runs/go [on]", "ban", "--no-jit", "--max-new-tokens", 3)
    assert status == 0 and out.startswith("ban")
    shutil.rmtree("runs/go [on]")


@pytest.mark.slow
def test_an_export_that_tensorflow_cannot_load_there_says_so(tfllm, place, tmp_path):
    import tensorflow as tf

    run = place / "runs" / "exp [v2]"
    status, out, err = tfllm("export", run, "--to", tmp_path / "served [x]")
    exported = Path(out.strip())
    assert status == 0 and "copy the folder to a path without * ? [ ]" in err
    with pytest.raises((tf.errors.OpError, OSError, ValueError)):
        tf.saved_model.load(str(exported))
    shutil.copytree(exported, tmp_path / "plain")
    assert tf.saved_model.load(str(tmp_path / "plain")).signatures["serving_default"]


@pytest.mark.slow
def test_evaluate_works_from_anywhere(tfllm, place, tmp_path, monkeypatch):
    run = place / "runs" / "exp [v2]"
    monkeypatch.chdir(place)
    status, here, err = tfllm("evaluate", "runs/exp [v2]")
    assert (status, err) == (0, "") and json.loads(here)["own_rows"] is True
    monkeypatch.chdir(tmp_path)
    assert tfllm("evaluate", run) == (0, here, "")
    (tmp_path / "w [x]").mkdir()  # the same path from here is not the run's text
    (tmp_path / "w [x]" / "a.txt").write_text("other text\n\n" * 99)
    assert tfllm("evaluate", run) == (0, here, "")
    assert tfllm("inspect", run)[0] == 0


def test_a_moved_project_is_found_from_its_run(tfllm, copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = tfllm("evaluate", copy / "runs" / "exp [v2]")
    assert (status, err) == (0, "") and json.loads(out)["own_rows"] is True


@pytest.mark.slow
def test_moved_text_is_named_by_an_override(tfllm, copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = copy / "runs" / "exp [v2]"
    (copy / "w [x]" / "a.txt").rename(tmp_path / "b.text")
    status, out, err = tfllm("evaluate", run)
    assert (status, out) == (1, "") and "matches no file" in err and "data.train.path=..." in err
    status, out, _ = tfllm("inspect", run)
    assert status == 0 and "PARAMETERS" in out and "matches no file" in out
    status, out, err = tfllm("evaluate", run, "data.train.path=b.text", "training.microbatch_size=2")
    assert (status, err) == (0, "") and json.loads(out)["own_rows"] is True
    # Goes on with it, too, however it is spelled: packed, in another type of source, with other settings.
    words = [
        "training.steps=8",
        "data.train.path=./../" + tmp_path.name + "/b.text",
        "data.train.on_error=skip",
    ]
    status, _, err = tfllm("train", copy / "c.yaml", "--run-dir", run, *words, "data.train.encoding=UTF8")
    assert status == 0 and "going on from" in err
    assert json.loads(tfllm("evaluate", run)[1])["own_rows"] is True


def test_other_rows_are_told_and_never_mixed_in(tfllm, place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    run = tmp_path / "run"
    shutil.copytree("runs/exp [v2]", run)
    text = (place / "w [x]" / "a.txt").read_text().replace("a", "o")
    (tmp_path / "other.txt").write_text(text)
    other = f"data.train.path={tmp_path / 'other.txt'}"
    before = (run / "config.yaml").read_bytes()
    status, _, err = tfllm("train", "c.yaml", "--run-dir", run, "training.steps=8", other)
    assert status == 1 and "rows have changed since" in err
    assert "remove" not in err and "delete" not in err
    assert (run / "config.yaml").read_bytes() == before
    for words in (
        [other],
        ["seed=5"],
        ["data.seq_len=16"],
        ["data.validation.type=text_files", f"data.validation.path={tmp_path / 'other.txt'}"],
    ):
        status, out, err = tfllm("evaluate", run, *words)
        assert status == 0 and json.loads(out)["own_rows"] is False
        assert "these held-out rows are not the run's own" in err


def test_what_earlier_versions_recorded_is_compared_too():
    rows = SimpleNamespace(content="c", identity="i")
    assert are_own(rows, {"rows": {"validation": "c"}, "data": {"validation": "other key, same rows"}})
    assert are_own(rows, {"data": {"validation": "i"}})
    assert are_own(rows, {"data": {"validation": "j"}}) is False
    assert are_own(rows, {}) is None


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.num_layers=3", "model.num_layers is not for an evaluation"),
        ("datas.seq_len=3", "datas.seq_len is not for an evaluation"),
        ("data.seq_lem=16", "did you mean data.seq_len?"),
        ("data.seq_len", "is not an override"),
        ("data.train.path=no/*.txt", "'no/*.txt' matches no file"),
    ],
)
def test_what_evaluate_cannot_override_is_told(tfllm, run_dir, override, words):
    status, out, err = tfllm("evaluate", run_dir, override)
    assert out == "" and status in (1, 2) and words in err


@pytest.mark.slow
def test_text_may_be_corrected_before_anything_is_trained(tfllm, config_file, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "' + "word " * 99 + '"}\n' * 40 + "broken\n")
    words = ["data.train.type=jsonl", f"data.train.path={tmp_path / 'a.jsonl'}", "data.train.split_on=null"]
    config = yaml.safe_load(config_file.read_text())
    del config["data"]["train"]["split_on"]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    train = ("train", tmp_path / "c.yaml", "--run-dir", tmp_path / "run", *words[:2])
    lines = [json.dumps({"text": f"word {i} " * 40}) for i in range(60)]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, "broken"]))
    status, _, err = tfllm(*train)
    assert status == 1 and "a.jsonl:61: not valid JSON" in err and "data.train.on_error: skip" in err
    status, _, err = tfllm(*train, "data.train.on_error=skip")
    assert status == 0 and "1 unreadable in the source and skipped" in err and "a.jsonl:61" in err


# A run's own files


def test_an_empty_config_is_taken_from_the_checkpoint(tfllm, run_dir, config_file, tmp_path, caplog):
    config, run = RunFolder(run_dir).load_config(), RunFolder(tmp_path / "run")
    shutil.copytree(run_dir, run.path)
    for content in (b"", b"\0" * 300, None):
        run.config.unlink() if content is None else run.config.write_bytes(content)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert run.load_config() == config
        assert "taking the config that its newest checkpoint holds" in caplog.text
    assert tfllm("evaluate", run.path)[1] == tfllm("evaluate", run_dir)[1]
    assert tfllm("train", config_file, "--run-dir", run.path)[0] == 0
    assert run.config.stat().st_size > 100 and run.load_config() == config  # written again


def test_a_damaged_config_offers_the_one_in_the_checkpoint(tfllm, run_dir, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(run_dir, run)
    (run / "config.yaml").write_text("name: [")
    status, _, err = tfllm("evaluate", run)
    assert status == 2 and "is not YAML" in err
    assert "the newest checkpoint holds the config too; remove the file to have that one taken" in err
    shutil.rmtree(run / "checkpoints")
    (run / "config.yaml").write_text("")
    status, _, err = tfllm("evaluate", run)
    assert status == 2 and "config.yaml is empty" in err


def test_lines_that_are_no_log_are_passed_over(tfllm, run_dir, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(run_dir, run)
    strange = (
        b'{"loss": 1}\n[1]\n5\nnull\n{"step": "6"}\n{"step": 1}\n\xff\xfe\n' + b"[" * 100_000 + b"\n\n{\n"
    )
    (run / "metrics.jsonl").write_bytes(
        strange + (run_dir / "metrics.jsonl").read_bytes() + b'{"step": 6, "spl'
    )
    wanted = list(read_metrics(run_dir / "metrics.jsonl"))
    assert list(read_metrics(run / "metrics.jsonl")) == wanted
    status, out, _ = tfllm("inspect", run)
    assert status == 0 and "step 6: " in out
    MetricsLog(run / "metrics.jsonl", step=6)
    assert list(read_metrics(run / "metrics.jsonl")) == wanted
    assert b"spl" not in (run / "metrics.jsonl").read_bytes().splitlines()[-1][-12:]


def test_a_source_that_is_gone_or_spelled_otherwise_is_no_other_run(tmp_path):
    from tests.config.minimal import minimal
    from tfllm.config import ConfigError, config_from_mapping

    (tmp_path / "tok.json").write_text("{}")
    (tmp_path / "link.json").symlink_to("tok.json")
    (tmp_path / "other.json").write_text("{}")

    def config(path):
        return config_from_mapping(minimal(tokenizer={"type": "byte_bpe", "path": str(path)}))

    run = RunFolder(tmp_path / "run")
    run.open_for(config(tmp_path / "tok.json"))
    run.check(config(tmp_path / "link.json"))
    with pytest.raises(ConfigError, match=r"tokenizer\.path=.*write what the run has"):
        run.check(config(tmp_path / "other.json"))
    (tmp_path / "tok.json").unlink()
    run.check(config(tmp_path / "other.json"))


def test_checkpoints_say_where_their_text_was(place):
    about = RunFolder(place / "runs" / "exp [v2]").about()
    assert about["folder"] == {"whole": str(place), "from_run": os.path.join("..", "..")}
    assert about["rows"].keys() == about["data"].keys() == {"train", "validation"}
    assert len(checkpoint_paths(place / "runs" / "exp [v2]" / "checkpoints")) == 2

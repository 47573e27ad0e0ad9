import json
import math
import shutil

import pytest

import tfllm as package
from tests.convert.golden import config_of, tensors_of, write_checkpoint
from tfllm.commands.main import COMMANDS
from tfllm.training.metrics_log import read_metrics


def test_a_run_folder_holds_what_it_promises(run_dir):
    names = {path.name for path in run_dir.iterdir()}
    assert names == {"config.yaml", "metrics.jsonl", "tensorboard", "checkpoints", "samples", "tokenizer"}
    assert sorted(p.name for p in (run_dir / "checkpoints").iterdir()) == ["step_00000003", "step_00000006"]
    assert (run_dir / "samples" / "step_00000006.txt").read_text(encoding="utf-8").startswith("ban│")
    entries = list(read_metrics(run_dir / "metrics.jsonl"))
    assert [(e["step"], e["split"]) for e in entries] == [
        (0, "validation"),
        (4, "train"),
        (6, "train"),
        (6, "validation"),
    ]
    always = {"step", "split", "loss", "learning_rate", "grad_norm", "update_ratio", "tokens", "mfu"}
    always |= {"tokens_per_second", "useful_tokens_per_second", "input_wait", "memory_gb"}
    always |= {"step_seconds", "input_seconds"}
    assert set(entries[1]) == always | {"evaluate_seconds", "save_seconds"}
    assert set(entries[3]) == {"step", "split", "loss", "perplexity", "tokens", "bits_per_byte", "seconds"}
    assert entries[3]["bits_per_byte"] < entries[0]["bits_per_byte"]
    # Untrained, every byte is as likely as any other.
    assert entries[0]["loss"] == pytest.approx(math.log(259), rel=0.1)


def test_evaluate_repeats_the_last_evaluation(tfllm, run_dir):
    status, out, _ = tfllm("evaluate", run_dir)
    assert status == 0
    result = json.loads(out)
    logged = list(read_metrics(run_dir / "metrics.jsonl"))[-1]
    assert result["step"] == 6
    for name in ("loss", "perplexity", "tokens", "bits_per_byte"):
        assert result[name] == pytest.approx(logged[name], rel=1e-6)


def test_generate_continues_every_prompt(tfllm, run_dir):
    words = ("generate", run_dir, "ban", "kon le", "--no-jit", "--max-new-tokens", 5, "--temperature", 0)
    status, out, _ = tfllm(*words)
    assert status == 0
    assert out.startswith("ban")
    assert "\nkon le" in out
    assert tfllm(*words)[1] == out


def test_generate_is_the_python_face(tfllm, run_dir):
    lm = package.load(run_dir, jit_compile=False)
    text = lm.generate("ban", max_new_tokens=5, temperature=0.0)
    assert (
        tfllm("generate", run_dir, "ban", "--no-jit", "--max-new-tokens", 5, "--temperature", 0)[1]
        == f"ban{text}\n"
    )
    assert lm.generate([]) == []
    with pytest.raises(ValueError, match="temprature is not a setting of generate; there are max_new_tokens"):
        lm.generate("ban", temprature=1.0)


def test_a_saved_model_is_the_loaded_one(run_dir, tmp_path):
    lm = package.load(run_dir, jit_compile=False)
    lm.save(tmp_path / "copy")
    again = package.load(tmp_path / "copy", jit_compile=False)
    assert (again.step, again.config) == (6, lm.config)
    settings = {"max_new_tokens": 5, "seed": 3}
    assert again.generate(["ban", "kon"], **settings) == lm.generate(["ban", "kon"], **settings)


def test_inspect_tells_parameters_data_and_run(tfllm, run_dir, config_file):
    status, out, _ = tfllm("inspect", run_dir)
    assert status == 0
    count = sum(math.prod(v.shape) for v in package.load(run_dir).model.variables)
    assert f"{count:,}" in out
    for words in (
        "PARAMETERS",
        "blocks/attention",
        "MEMORY",
        "ARITHMETIC",
        "DATA",
        "RUN",
        "step_00000006",
        "CONFIG",
    ):
        assert words in out
    status, out, _ = tfllm("inspect", config_file, "model.num_layers=1")
    assert status == 0
    assert "num_layers: 1" in out
    assert "RUN" not in out


def test_prepare_says_what_there_is(tfllm, config_file):
    status, out, _ = tfllm("prepare", config_file, "data.seq_len=16")
    assert status == 0
    assert "tokenizer   byte, 259 tokens" in out
    assert "rows of 16" in out


def test_training_again_says_it_is_trained(tfllm, run_dir, config_file):
    before = (run_dir / "metrics.jsonl").read_bytes()
    status, out, err = tfllm("train", config_file, "--run-dir", run_dir)
    assert status == 0
    assert "is already trained to step 6" in err
    assert f"trained: {run_dir}" in out
    assert (run_dir / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_a_run_may_go_on_further_in_the_same_process(tfllm, run_dir, config_file, tmp_path):
    folder = tmp_path / "longer"
    shutil.copytree(run_dir, folder)
    status, _, err = tfllm(
        "train", config_file, "training.steps=8", "--run-dir", folder, "training.log_every=2"
    )
    assert status == 0
    assert "going on from" in err
    assert [e["step"] for e in read_metrics(folder / "metrics.jsonl") if e["split"] == "train"] == [4, 6, 8]


def test_another_experiment_in_a_run_is_refused(tfllm, run_dir, config_file):
    before = (run_dir / "config.yaml").read_bytes()
    overrides = ["model.hidden_dim=64", "optimizer.learning_rate=1", "data.seq_len=16"]
    status, _, err = tfllm("train", config_file, *overrides, "--run-dir", run_dir)
    assert status == 2
    assert "which holds another run" in err
    for words in (
        "model.hidden_dim=64 is 32 in the run",
        "optimizer.learning_rate=1.0 is 0.01 in the run",
        "data.seq_len=16 is 32 in the run",
        "choose another --run-dir",
    ):
        assert words in err
    assert (run_dir / "config.yaml").read_bytes() == before


def test_inspect_tells_what_a_checkpoint_is(tfllm, tmp_path):
    config = {**config_of("gpt_neox"), "sparse_heads": 3}
    folder = write_checkpoint(tmp_path / "there", "gpt_neox", config=config)
    status, out, _ = tfllm("inspect", folder)
    assert status == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    total = sum(array.size for array in tensors_of("gpt_neox").values())
    for line in (
        "type gpt_neox",
        f"stored as F32 ({len(tensors_of('gpt_neox'))} tensors)",
        "rotary_dim 4",
        "parallel_branches True",
        f"total {total:,}",
        "sparse_heads=3 is not known and was left aside",
    ):
        assert line in lines
    assert any(line.startswith("bfloat16 ") and " of cache " in line for line in lines)
    (folder / "model.safetensors").write_bytes(b"short")
    status, _, error = tfllm("inspect", folder)
    assert status == 1
    assert "is truncated or corrupt" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", ["evaluate", "generate", "inspect"])
def test_a_missing_run_is_told(tfllm, command, tmp_path):
    prompt = ["a"] if command == "generate" else []
    status, out, err = tfllm(command, tmp_path, *prompt)
    assert (status, out) == (2, "")
    assert f"tfllm {command}: 1 problem in the model:" in err
    assert "config.yaml" in err
    assert "give the folder of a run" in err


def test_a_run_without_a_whole_checkpoint_is_told(tfllm, run_dir, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run_dir, folder)
    shutil.rmtree(folder / "checkpoints")
    status, _, err = tfllm("evaluate", folder)
    assert status == 1
    assert "no whole checkpoint in" in err


def test_mistakes_in_a_config_have_status_2(tfllm, config_file, tmp_path):
    status, out, err = tfllm("train", config_file, "trainig.steps=5", "seed=x", "--run-dir", tmp_path / "r")
    assert (status, out) == (2, "")
    assert err.startswith(f"tfllm train: 2 problems in {config_file}:\n")
    assert "did you mean training?" in err
    assert not (tmp_path / "r").exists()
    assert tfllm("train", "nowhere.yaml")[0] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-new-tokens", "40"], "exceeds the context of 32; write max_new_tokens=28 or less"),
        (["--top-p", "2"], "top_p=2.0 must be in (0, 1]"),
        (["--seed", "99999999999"], "seed=99999999999 must be from"),
    ],
)
def test_what_cannot_be_generated_has_status_1(tfllm, run_dir, words, message):
    status, out, err = tfllm("generate", run_dir, "ban", "--no-jit", *words)
    assert (status, out) == (1, "")
    assert message in err


def test_text_that_is_not_there_has_status_1(tfllm, config_file, tmp_path):
    status, _, err = tfllm("train", config_file, "data.train.path=no/*.txt", "--run-dir", tmp_path / "r")
    assert status == 1
    assert "no/*.txt" in err


def test_bad_usage_has_status_2(tfllm, config_file):
    assert tfllm("trane")[0] == 2
    assert tfllm()[0] == 2
    assert tfllm("train", config_file, "--colour", "blue")[0] == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(tfllm, command):
    status, out, _ = tfllm(command, "--help")
    assert status == 0
    assert f"usage: tfllm {command}" in out


def test_the_version_is_the_packages(tfllm):
    assert tfllm("--version")[:2] == (0, f"{package.__version__}\n")

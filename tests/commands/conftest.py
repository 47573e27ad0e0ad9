import random
import string

import pytest
import yaml

from tfllm.commands.main import main

WORDS = [f"{a}{b}n" for a in string.ascii_lowercase for b in "aeiou"]


@pytest.fixture(scope="session")
def config_file(tmp_path_factory):
    """A config that trains in seconds: byte tokens, two layers of 32, six steps."""
    folder = tmp_path_factory.mktemp("command")
    rng = random.Random(0)
    documents = [" ".join(rng.choices(WORDS, k=30)) for _ in range(60)]
    (folder / "text.txt").write_text("\n\n".join(documents), encoding="utf-8")
    config = {
        "name": "small",
        "tokenizer": "byte",
        "model": {"num_layers": 2, "hidden_dim": 32, "num_heads": 2, "dropout": 0.1},
        "data": {
            "train": {"type": "text_files", "path": str(folder / "text.txt"), "split_on": "\n\n"},
            "validation_fraction": 0.2,
            "seq_len": 32,
        },
        "optimizer": {"learning_rate": 0.01, "schedule": "constant"},
        "training": {
            "steps": 6,
            "global_batch_size": 4,
            "jit_compile": False,
            "log_every": 4,
            "checkpoint_every": 3,
        },
        "generation": {"max_new_tokens": 8, "prompts": ["ban"]},
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


@pytest.fixture
def tfllm(capfd):
    """Runs a command in this process -> exit status, standard output, standard error."""

    def run(*arguments):
        capfd.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        assert (
            "AutoGraph" not in out + err
        )  # a warning to developers of TensorFlow programs, not to users of ours
        return status, out, err

    return run


@pytest.fixture(scope="session")
def run_dir(config_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "small"
    assert main(["train", str(config_file), "--run-dir", str(folder)]) == 0
    return folder

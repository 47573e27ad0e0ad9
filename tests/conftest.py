"""Shared by all tests: two logical CPU devices, a private cache, quiet TensorFlow."""

import os
import signal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest
import tensorflow as tf

# Before anything starts TensorFlow: the replicated tests need two devices.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


# Files whose tests take long go first: one that is begun at the end keeps all other workers waiting.
LONG = (
    "promises",
    "commands",
    "training/test_trainer",
    "models",
    "test_readme",
    "export",
    "notebooks",
    "experiment",
)


def pytest_collection_modifyitems(items):
    """Sorts by the place in `LONG`; what is not there comes behind, in its order."""

    def place(item):
        name = item.nodeid.removeprefix("tests/")
        return next((index for index, start in enumerate(LONG) if name.startswith(start)), len(LONG))

    items.sort(key=place)


@pytest.fixture(autouse=True, scope="session")
def _private_cache(tmp_path_factory):
    """Rows and tokenizers go to a temporary folder, never to the user's cache."""
    os.environ["TFLLM_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True, scope="session")
def _interrupts():
    """Ctrl-C interrupts, also in a shell's background, which has it ignored; a hang-up ends, also under nohup."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, _private_cache):
    """The folder of a run of 20 steps: bytes, 2 layers of 2 heads, width 32, a context of 64. Do not write to it."""
    from tfllm.config import config_from_mapping
    from tfllm.experiment.run import train

    folder = tmp_path_factory.mktemp("tiny_run")
    text = folder / "text.txt"
    text.write_text("\n\n".join(f"The {i}th door opens when the {i + 1}th one is shut." for i in range(400)))
    mapping = {
        "name": "tiny",
        "tokenizer": {"type": "byte"},
        "model": {"num_layers": 2, "hidden_dim": 32, "num_heads": 2},
        "data": {"train": {"type": "text_files", "path": str(text), "split_on": "\n\n"}, "seq_len": 64},
        "optimizer": {"type": "adamw", "learning_rate": 3e-3},
        "training": {
            "steps": 20,
            "global_batch_size": 4,
            "log_every": 5,
            "evaluate_every": 10,
            "jit_compile": False,
        },
        "generation": {"max_new_tokens": 16},
    }
    run = folder / "run"
    assert train(config_from_mapping(mapping), run).stopped_by is None
    return run


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A small data set with nested features, prepared as `tfds build` would."""
    import tensorflow_datasets as tfds

    class TinyTexts(tfds.core.GeneratorBasedBuilder):
        # Inside a package tfds looks itself up by importlib_resources, which it does not require (4.9.10).
        __module__ = "tiny_texts"
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = tmp_path_factory.mktemp("package")

        def _info(self):
            pair = {"de": tfds.features.Text(), "en": tfds.features.Text()}
            features = {"text": tfds.features.Text(), "label": tf.int64, "translation": pair}
            features["kind"] = tfds.features.ClassLabel(names=["odd", "even"])
            answers = {"text": tfds.features.Text(), "answer_start": tf.int32}
            features["answers"] = tfds.features.Sequence(answers)
            features["words"] = tfds.features.Sequence(tfds.features.Text())
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._examples(5), "test": self._examples(2)}

        def _generate_examples(self):
            raise AssertionError

        def _examples(self, number):
            for i in range(number):
                pair = {"de": f"Satz {i} ü", "en": f"sentence {i}"}
                answers = {"text": [f"a{i}"] * i, "answer_start": list(range(i))}
                more = {"kind": ["even", "odd"][i % 2], "answers": answers, "words": [f"w{i}", "ü"]}
                yield i, {"text": f"text {i}", "label": i, "translation": pair, **more}

    folder = tmp_path_factory.mktemp("tfds")
    TinyTexts(data_dir=folder).download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
    return str(folder)

"""Every registered type of every registry is built by what it names."""

import json
import socket

import pyarrow
import pytest
import tensorflow as tf
from pyarrow import parquet

from tests.commands.test_keras_nlp_run import GPT2
from tests.config.minimal import minimal
from tests.tasks.test_contrastive import Pairs
from tests.tasks.test_seq2seq import Pairs as Translations
from tests.tasks.test_span_qa import Questions
from tfllm import experiment
from tfllm.config import config_from_mapping
from tfllm.config.data import SOURCES
from tfllm.config.model import MODELS
from tfllm.config.optimizer import OPTIMIZERS, SCHEDULES
from tfllm.config.rope_scaling import ROPE_SCALINGS
from tfllm.config.sections import DISTRIBUTIONS, TOKENIZERS
from tfllm.config.task import TASKS
from tfllm.data.record import Record
from tfllm.data.sources import MixtureSource
from tfllm.experiment.build import arguments_of, build, builder_of, check_builders
from tfllm.language_model import LanguageModel
from tfllm.tokenizers import ByteTokenizer, Tokenizer
from tfllm.training.errors import TrainingError
from tfllm.training.optimizers import Optimizer
from tfllm.training.schedules import Schedule

SMALL = {"num_layers": 1, "hidden_dim": 16, "num_heads": 2, "max_seq_len": 64}
# Sections of which nothing is made by itself: a model that stands for another, and numbers that a model is given.
UNBUILT = {(MODELS, "pretrained"), *((ROPE_SCALINGS, kind) for kind in ROPE_SCALINGS.names())}


def experiment_of(*, for_training=True, **sections):
    return config_from_mapping(minimal(**sections), for_training=for_training)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a text of each kind, and a saved model."""
    folder = tmp_path_factory.mktemp("build")
    (folder / "a.txt").write_text("one two three")
    (folder / "a.conll").write_text("one O\ntwo B-X\n")
    asked = {"context": "one two", "qas": [{"question": "which", "answers": []}]}
    (folder / "a.json").write_text(json.dumps({"data": [{"paragraphs": [asked]}]}))
    (folder / "a.csv").write_text("text,label\none two three,1\n")
    parquet.write_table(pyarrow.table({"text": ["one two three"]}), folder / "a.parquet")
    (folder / "a.jsonl").write_text('{"text": "one two three"}\n')
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"one two three"]))
    record = tf.train.Example(features=tf.train.Features(feature={"text": feature})).SerializeToString()
    with tf.io.TFRecordWriter(str(folder / "a.tfrecord")) as writer:
        writer.write(record)
    config = experiment_of(model=SMALL, tokenizer="byte")
    LanguageModel(experiment.make_model(config, 259), ByteTokenizer(), config).save(folder / "saved")
    return folder


@pytest.mark.parametrize("kind", SOURCES.names())
def test_every_source(kind, place, data_dir):
    text = {"type": "text_files", "path": str(place / "a.txt")}
    keys = {
        "text_files": {"path": str(place / "a.txt")},
        "jsonl": {"path": str(place / "a.jsonl")},
        "conll": {"path": str(place / "a.conll")},
        "squad": {"path": str(place / "a.json")},
        "csv": {"path": str(place / "a.csv")},
        "parquet": {"path": str(place / "a.parquet")},
        "parallel_text": {"source": str(place / "a.txt"), "target": str(place / "a.txt")},
        "tfrecord": {"path": str(place / "a.tfrecord")},
        "tfds": {"name": "tiny_texts", "data_dir": data_dir},
        "mixture": {"sources": [{"weight": 2, "source": text}, {"weight": 1, "source": "python_docs"}]},
        "python_docs": {},
    }[kind]
    config = experiment_of(data={"train": {"type": kind, **keys}, "seq_len": 64})
    source = experiment.make_source(config.data.train)
    assert isinstance(source, builder_of(config.data.train, "data.train"))
    assert next(iter(source.records()))
    if kind == "mixture":
        assert [type(part).__name__ for part in source.sources] == ["TextFilesSource", "PythonDocsSource"]
    else:
        assert not isinstance(source, MixtureSource)


@pytest.mark.parametrize("kind", TOKENIZERS.names())
def test_every_tokenizer(kind, place):
    keys = {"byte_bpe": {"vocab_size": 260}, "pretrained": {"source": str(place / "saved")}}.get(kind, {})
    data = {"train": {"type": "text_files", "path": str(place / "a.txt"), "split_on": " "}, "seq_len": 64}
    config = experiment_of(tokenizer={"type": kind, **keys}, data=data)
    tokenizer = experiment.make_tokenizer(config, experiment.make_source(config.data.train))
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.decode(tokenizer.encode("one")) == "one"


@pytest.mark.parametrize("kind", MODELS.names())
def test_every_model(kind, place):
    keys = {
        "decoder": SMALL,
        "encoder": SMALL,
        "encoder_decoder": {
            **{k: v for k, v in SMALL.items() if k != "num_layers"},
            "num_encoder_layers": 1,
            "num_decoder_layers": 1,
        },
        "keras_nlp": {"backbone": "GPT2Backbone", "arguments": {**GPT2, "max_sequence_length": 64}},
        "pretrained": {"source": str(place / "saved")},
    }[kind]
    config = experiment_of(model={"type": kind, **keys}, tokenizer="byte", for_training=False)
    config = experiment.expand(config)
    assert config.model.type == ("decoder" if kind == "pretrained" else kind)
    check_builders(config)
    model = experiment.make_model(config, 259)
    assert (model.vocab_size, model.max_seq_len) == (259, 64)
    assert model.count_params() > 0


@pytest.mark.parametrize("kind", ROPE_SCALINGS.names())
def test_every_stretching_of_positions_reaches_the_model(kind):
    keys = {"factors": {"factors": [2.0] * 4}, "linear": {"factor": 2.0}}.get(
        kind, {"factor": 2.0, "original_max_seq_len": 32}
    )
    config = experiment_of(model={**SMALL, "rope_scaling": {"type": kind, **keys}})
    given = arguments_of(config.model)["rope_scaling"]
    assert given["type"] == kind
    model = experiment.make_model(config, 259)
    assert dict(model.get_config()["rope_scaling"]) == given


class Conversations(Translations):
    """The same, as what a user says and what is answered."""

    def records(self):
        return (Record({"prompt": row["source"], "completion": row["target"]}) for row in self.rows)


class Preferences(Translations):
    """The same, each target preferred to its source."""

    def records(self):
        return (
            Record({"prompt": "say it", "chosen": row["target"], "rejected": row["source"]})
            for row in self.rows
        )


@pytest.mark.parametrize("kind", TASKS.names())
def test_every_task(kind, tmp_path):
    learned = {"type": "byte_bpe", "vocab_size": 400}
    model = {"type": TASKS.get(kind).trains}
    head = {"classes": "sequence_classification", "tags": "token_classification"}.get(TASKS.get(kind).labels)
    if head is not None:
        model |= {"head": head, "num_classes": 2, "class_names": ["a", "b"]}
    template = tmp_path / "chat.jinja"
    template.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}")
    section = {"type": kind, **({"template_file": str(template)} if TASKS.get(kind).chats else {})}
    if kind == "preference":  # without a start there is no reference
        section["loss"] = "simpo"
    config = experiment_of(task=section, model=model, tokenizer=learned)
    sources = {
        "span_qa": Questions,
        "seq2seq": Translations,
        "chat": Conversations,
        "preference": Preferences,
    }
    tokenizer = experiment.make_tokenizer(config, sources.get(kind, Pairs)())
    task = experiment.make_task(config, tokenizer)
    assert type(task).__name__.lower() == kind.replace("_", "")
    assert "loss" in task.metric_modes
    maker = task.examples_of(tokenizer, seq_len=16, packing=True)
    assert maker.layout.width > 16


@pytest.mark.parametrize("schedule", SCHEDULES.names())
@pytest.mark.parametrize("kind", OPTIMIZERS.names())
def test_every_optimizer_with_every_schedule(kind, schedule):
    config = experiment_of(model=SMALL, optimizer={"type": kind, "schedule": schedule, "learning_rate": 0.5})
    optimizer = experiment.make_optimizer_of(config, experiment.make_model(config, 259))
    assert isinstance(optimizer, Optimizer)
    assert any(name.startswith(f"{kind}/") for name in optimizer.named_variables) or kind == "sgd"
    course = build(config.optimizer.schedule, at="optimizer.schedule", peak=0.5, total_steps=10)
    assert isinstance(course, Schedule)
    assert float(optimizer.learning_rate) == float(course(0)) == 0.5


@pytest.mark.parametrize("kind", DISTRIBUTIONS.names())
def test_every_distribution(kind):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    keys = {"mirrored": {"num_devices": 2}, "multi_worker": {"workers": [address], "index": 0}}.get(kind, {})
    config = experiment_of(distribution={"type": kind, **keys})
    if kind == "tpu":  # there is none, and that is what its builder says
        with pytest.raises(TrainingError, match="no TPU could be started"):
            build(config.distribution, at="distribution")
        return
    strategy = build(config.distribution, at="distribution")
    assert strategy.num_replicas_in_sync == (2 if kind == "mirrored" else 1)


def test_a_section_without_a_builder_is_known():
    registries = (SOURCES, MODELS, ROPE_SCALINGS, TOKENIZERS, TASKS, OPTIMIZERS, SCHEDULES, DISTRIBUTIONS)
    unbuilt = {(r, name) for r in registries for name in r.names() if r.get(name).builds is None}
    assert unbuilt == UNBUILT

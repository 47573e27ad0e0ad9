import dataclasses
import re

import pytest

from tests.config.minimal import minimal
from tfllm.config import (
    ConfigError,
    Problem,
    Registry,
    config_from_mapping,
    load_config,
    save_config,
    setting,
)
from tfllm.config.build import build, to_mapping
from tfllm.config.data import SOURCES
from tfllm.config.decoder import DECODER_SIZES
from tfllm.config.model import MODELS
from tfllm.config.optimizer import OPTIMIZERS, SCHEDULES
from tfllm.config.registry import RegistryError
from tfllm.config.sections import DISTRIBUTIONS, TOKENIZERS
from tfllm.config.task import TASKS

# What each registered type needs beside its name.
REQUIRED = {
    "preference": {"loss": "simpo"},  # the others compare with a start
    "pretrained": {"source": "model.gguf"},
    "keras_nlp": {"backbone": "GPT2Backbone", "arguments": {"num_layers": 2}},
    "text_files": {"path": "a.txt"},
    "jsonl": {"path": ["a.jsonl", "b.jsonl"]},
    "conll": {"path": "a.conll"},
    "squad": {"path": "a.json"},
    "csv": {"path": "a.csv"},
    "parquet": {"path": "a.parquet"},
    "parallel_text": {"source": "a.en", "target": "a.fr"},
    "tfds": {"name": "imdb_reviews"},
    "tfrecord": {"path": "a.tfrecord"},
    "mixture": {
        "sources": [
            {"weight": 0.7, "source": {"type": "jsonl", "path": "a.jsonl"}},
            {"weight": 1, "source": "python_docs"},
        ]
    },
}
SECTIONS = {
    "task": TASKS,
    "tokenizer": TOKENIZERS,
    "model": MODELS,
    "optimizer": OPTIMIZERS,
    "distribution": DISTRIBUTIONS,
}
EVERY_TYPE = [
    *((name, kind) for name, registry in SECTIONS.items() for kind in registry.names()),
    *(("data.train", kind) for kind in SOURCES.names()),
    *(
        (f"data.{side}", kind)
        for side in ("validation", "test")
        for kind in SOURCES.names()
        if kind != "mixture"  # it is for training
    ),
    *(("optimizer.schedule", kind) for kind in SCHEDULES.names()),
]


def problems_of(mapping, overrides=()):
    with pytest.raises(ConfigError) as caught:
        config_from_mapping(mapping, overrides)
    return {problem.path: problem for problem in caught.value.problems}, str(caught.value)


def with_type(path, kind):
    section = {"type": kind, **REQUIRED.get(kind, {})}
    if path == "task":
        return minimal(task=section, model=TASKS.get(kind).trains)
    if path == "optimizer.schedule":
        return minimal(optimizer={"schedule": section})
    if "." in path:
        data = {"train": {"type": "text_files", "path": "other.txt"}, "seq_len": 64}
        return minimal(data={**data, path.split(".")[1]: section})
    return minimal(**{path: section})


def at(config, path):
    for name in path.split("."):
        config = getattr(config, name)
    return config


@pytest.mark.parametrize(("path", "kind"), EVERY_TYPE)
def test_every_type_builds_and_reads_back_equal(path, kind, tmp_path):
    trained = path != "model" or kind == "decoder"
    config = config_from_mapping(with_type(path, kind), for_training=trained)
    assert at(config, path).type == kind
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml", for_training=trained) == config


def test_values_other_than_the_defaults_read_back_equal(tmp_path):
    config = config_from_mapping(
        minimal(
            model={"size": "gpt2-small", "hidden_dim": 96, "num_heads": 4, "dropout": 0.1, "head_dim": 8},
            optimizer={"type": "sgd", "learning_rate": 1e-7, "clip_norm": None, "nesterov": True},
            training={"steps": 7, "microbatch_size": 4, "sample_every": 3},
            distribution={"type": "mirrored", "num_devices": 2},
        ),
        ["generation.prompts=['a: b', \"# é\\n\"]", "name=2024"],
    )
    save_config(config, tmp_path / "config.yaml")
    again = load_config(tmp_path / "config.yaml")
    assert again == config
    assert (again.name, again.generation.prompts) == ("2024", ("a: b", "# é\n"))
    assert again.optimizer.clip_norm is None


OPTIMIZER = {
    "weight_decay": 0.2,
    "decay_embeddings": True,
    "groups": [
        {"pattern": "decoder/block_00/*", "learning_rate_scale": 0.5, "weight_decay": 0.0},
        {"pattern": "*embeddings", "freeze": True},
    ],
    "layer_decay": 0.75,
    "ema_decay": 0.999,
    "skip_above": 20.0,
}
RULES = {
    "adamw": {"beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-6},
    "lion": {"beta_1": 0.8, "beta_2": 0.9},
    "adafactor": {"relative_step": True},
    "sgd": {"momentum": 0.5, "nesterov": True},
    "lamb": {"beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-5},
    "muon": {
        "momentum": 0.9,
        "nesterov": False,
        "ns_steps": 6,
        "beta_1": 0.8,
        "beta_2": 0.9,
        "epsilon": 1e-6,
    },
}


@pytest.mark.parametrize("kind", OPTIMIZERS.names())
def test_every_optimizer_reads_back_other_values_than_its_defaults(kind, tmp_path):
    section = {"type": kind, "learning_rate": 2e-3, "clip_norm": 2.0, **OPTIMIZER, **RULES[kind]}
    config = config_from_mapping(minimal(optimizer={**section, "schedule": "wsd"}))
    defaults = OPTIMIZERS.get(kind)()
    for field in dataclasses.fields(defaults):
        if field.name not in ("type", "schedule"):
            assert getattr(config.optimizer, field.name) != getattr(defaults, field.name), field.name
    assert to_mapping(config.optimizer.groups)[1] == {
        "pattern": "*embeddings",
        "learning_rate_scale": 1.0,
        "weight_decay": None,
        "freeze": True,
    }
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


def test_a_config_is_frozen():
    config = config_from_mapping(minimal())
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.training.steps = 3


def test_every_mistake_is_told_at_once():
    mapping = minimal(
        model={"num_heads": 5, "hidden_dim": 64, "norm": "batch_norm", "dropout": 1.0},
        optimizer={"type": "adamv", "learning_rate": 1},
        training={"steps": "many", "log_evry": 5, "global_batch_size": 0},
        tokenizer={"type": "byte_bpe", "vocab_size": 12},
        colour="blue",
    )
    problems, message = problems_of(mapping, ["data.packing=perhaps"])
    assert set(problems) == {
        "model.norm",
        "model.dropout",
        "optimizer.type",
        "training.steps",
        "training.log_evry",
        "training.global_batch_size",
        "tokenizer.vocab_size",
        "colour",
        "data.packing",
    }
    assert message.startswith("9 problems in the config:")
    for line in (
        "model.norm=batch_norm is not a known choice; write one of layer_norm, rms_norm",
        "model.dropout=1.0 must be less than 1.0",
        "optimizer.type=adamv is not a known optimizer; did you mean adamw?",
        "training.steps=many must be a whole number; write digits without quotes",
        "training.log_evry=5 is not a known key; did you mean training.log_every?",
        "training.global_batch_size=0 must be at least 1",
        "tokenizer.vocab_size=12 must be at least 260",
        "data.packing=perhaps must be true or false; write true or false without quotes",
    ):
        assert f"\n  - {line}" in message
    assert "colour=blue is not a known key; known here: name, seed, task" in message


def test_rules_between_keys_are_told_beside_unknown_keys():
    problems, _ = problems_of(
        minimal(
            model={"num_heads": 5, "hidden_dim": 64, "widht": 3},
            optimizer={"schedule": {"type": "linear", "warmup_steps": 50}},
            training={"steps": 20, "global_batch_size": 6, "microbatch_size": 4},
        )
    )
    assert {"model.num_heads", "model.widht", "optimizer.schedule.warmup_steps"} < set(problems)
    assert "training.microbatch_size" in problems


@pytest.mark.parametrize("text", ["3e-4", "3.0e-4", "0.0003", ".3e-3"])
def test_floats_are_read_however_they_are_written(text, tmp_path):
    assert config_from_mapping(minimal(), [f"optimizer.learning_rate={text}"]).optimizer.learning_rate == 3e-4
    path = tmp_path / "c.yaml"
    path.write_text(
        "name: x\ndata: {train: python_docs}\noptimizer:\n  learning_rate: " + text + "\n", encoding="utf-8"
    )
    assert load_config(path).optimizer.learning_rate == 3e-4


@pytest.mark.parametrize("value", ["nan", ".inf", "1" + "0" * 400, "true", "[1]", "fast"])
def test_what_is_no_number_is_refused(value):
    problems, message = problems_of(minimal(), [f"optimizer.learning_rate={value}"])
    assert list(problems) == ["optimizer.learning_rate"]
    assert "must be a finite number" in message


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("training.steps=2.5", "must be a whole number"),
        ("training.steps='5'", "must be a whole number"),
        ("training.steps=true", "must be a whole number"),
        ("training.jit_compile=1", "must be true or false"),
        ("training.jit_compile='false'", "must be true or false"),
        ("name=true", "must be text"),
        ("name=[a]", "must be text"),
        ("training=5", "must be a section"),
        ("model=7", "must be a section with a `type`"),
        ("training.steps=null", "must be a whole number"),
        ("seed=-1", "must be at least 0"),
        ("seed=2147483648", "must be at most 2147483647"),
        ("generation.top_p=0", "must be greater than 0.0"),
        ("name=a/b", "is not a folder name"),
    ],
)
def test_wrong_values_are_refused(override, rule):
    problems, _ = problems_of(minimal(), [override])
    assert list(problems) == [override.partition("=")[0]]
    assert rule in str(*problems.values())


def test_whole_floats_are_whole_numbers():
    steps = config_from_mapping(minimal(), ["training.steps=2.0"]).training.steps
    assert steps == 2
    assert type(steps) is int


def test_the_name_of_a_type_is_short_for_its_section():
    config = config_from_mapping(minimal(optimizer={"schedule": "linear"}))
    assert config.optimizer.schedule == SCHEDULES.get("linear")()
    assert config_from_mapping(minimal(tokenizer="byte")).tokenizer.type == "byte"
    # An override below the short form keeps the type.
    config = config_from_mapping(minimal(optimizer="sgd"), ["optimizer.momentum=0.5"])
    assert (config.optimizer.type, config.optimizer.momentum) == ("sgd", 0.5)


@pytest.mark.parametrize("size", sorted(DECODER_SIZES))
def test_a_size_stands_under_the_keys_that_are_written(size):
    model = config_from_mapping(minimal(model={"size": size})).model
    assert {name: getattr(model, name) for name in DECODER_SIZES[size]} == DECODER_SIZES[size]
    written = {"num_layers": 3, "max_seq_len": 128, "use_bias": not model.use_bias}
    model = config_from_mapping(minimal(model={"size": size, **written})).model
    assert {name: getattr(model, name) for name in written} == written
    assert model.hidden_dim == DECODER_SIZES[size]["hidden_dim"]


def test_an_unknown_size_is_told_once():
    problems, message = problems_of(minimal(model={"size": "huge"}))
    assert list(problems) == ["model.size"]
    assert "tiny" in message


@pytest.mark.parametrize(
    ("sections", "path", "words"),
    [
        ({"model": {"max_seq_len": 32}}, "data.seq_len", "exceeds model.max_seq_len=32"),
        (
            {"optimizer": {"schedule": {"type": "wsd", "warmup_steps": 11}}, "training": {"steps": 10}},
            "optimizer.schedule.warmup_steps",
            "exceeds training.steps=10; write at most 10",
        ),
        (
            {"optimizer": {"schedule": {"type": "linear", "warmup_steps": 2, "warmup_fraction": 0.1}}},
            "optimizer.schedule.warmup_fraction",
            "says what warmup_steps=2 says otherwise; write null here, or leave that out",
        ),
        (
            {
                "training": {"global_batch_size": 8, "microbatch_size": 4},
                "distribution": {"type": "mirrored", "num_devices": 4},
            },
            "training.global_batch_size",
            "must be divisible by distribution.num_devices=4 x training.microbatch_size=4; try 16",
        ),
        (
            {"training": {"global_batch_size": 9}, "distribution": {"type": "mirrored", "num_devices": 2}},
            "training.global_batch_size",
            "must be divisible by distribution.num_devices=2; try 8 or 10",
        ),
        (
            {"training": {"global_batch_size": 9, "microbatch_size": 2}},
            "training.microbatch_size",
            "must divide training.global_batch_size=9",
        ),
        ({"generation": {"max_new_tokens": 64}}, "generation.max_new_tokens", "write at most 63"),
        ({"model": {"hidden_dim": 64, "num_heads": 6}}, "model.num_heads", "try 4 or 8"),
        ({"model": {"num_heads": 6, "num_kv_heads": 4}}, "model.num_heads", "model.num_kv_heads=4"),
        ({"model": {"head_dim": 15}}, "model.head_dim", "make the width of a head even"),
        ({"model": {"hidden_dim": 60, "num_heads": 4}}, "model.num_heads", "heads of width 15"),
    ],
)
def test_rules_between_keys(sections, path, words):
    problems, _ = problems_of(minimal(**sections))
    assert path in problems
    assert words in str(problems[path])


def test_the_training_text_is_no_held_out_text():
    source = {"type": "python_docs"}
    problems, _ = problems_of(minimal(data={"train": source, "validation": source}))
    assert "leave it out to hold documents out" in str(problems["data.validation"])


def test_what_the_rules_allow_is_allowed():
    config = config_from_mapping(
        minimal(
            model={"max_seq_len": 64, "num_heads": 6, "num_kv_heads": 3, "head_dim": 10},
            optimizer={"schedule": {"type": "cosine", "warmup_steps": 10}},
            training={"steps": 10, "global_batch_size": 16, "microbatch_size": 4},
            distribution={"type": "mirrored", "num_devices": 2},
            generation={"max_new_tokens": 63},
        )
    )
    assert config.model.num_kv_heads == 3
    odd = config_from_mapping(minimal(model={"positions": "none", "head_dim": 15}))
    assert odd.model.head_dim == 15


def test_missing_sections_are_told_with_what_to_write():
    problems, message = problems_of({"name": "x", "data": {}})
    assert list(problems) == ["data.train"]
    assert (
        "data.train is required; write data.train.type as one of conll, csv, jsonl, mixture, parallel_text, parquet,"
        in message
    )
    problems, _ = problems_of({})
    assert set(problems) == {"name", "data.train"}
    problems, _ = problems_of({"name": "x", "data": {"train": {"path": "a.txt"}}})
    assert "data.train.type" in problems


def test_mistakes_in_a_list_of_sections_are_told_with_their_place():
    groups = [
        {"pattern": "a"},
        {"learning_rate_scale": 0.0},
        {"patern": "b", "pattern": 1},
        "*",
        {"pattern": "c", "freeze": True, "weight_decay": 0.1},
    ]
    problems, message = problems_of(minimal(optimizer={"groups": groups}))
    assert set(problems) == {
        "optimizer.groups[1].pattern",
        "optimizer.groups[1].learning_rate_scale",
        "optimizer.groups[2].patern",
        "optimizer.groups[3]",
        "optimizer.groups[4].freeze",
    }
    assert "optimizer.groups[1].pattern is required; write optimizer.groups[1].pattern: glob over" in message
    assert (
        "optimizer.groups[2].patern=b is not a known key; did you mean optimizer.groups[2].pattern?"
        in message
    )
    assert "optimizer.groups[3]=* must be a section" in message
    # One section alone is a list of one; an override reads as YAML.
    (group,) = config_from_mapping(minimal(), ["optimizer.groups={pattern: x}"]).optimizer.groups
    assert group.pattern == "x"


@pytest.mark.parametrize(
    "override",
    [
        "optimizer.layer_decay=0",
        "optimizer.layer_decay=1.1",
        "optimizer.ema_decay=1",
        "optimizer.ema_decay=0",
        "optimizer.skip_above=0",
    ],
)
def test_shares_and_norms_have_their_range(override):
    problems, _ = problems_of(minimal(), [override])
    assert list(problems) == [override.partition("=")[0]]


def test_a_plug_in_type_is_built_saved_and_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(SOURCES, "_classes", dict(SOURCES._classes))

    @SOURCES.register("reversed_text", builds="my_package.sources:Reversed")
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Reversed:
        type: str = "reversed_text"
        depth: int = setting(2, "how deep", minimum=1)

    config = config_from_mapping(
        minimal(data={"train": {"type": "reversed_text", "depth": 5}, "seq_len": 64})
    )
    assert config.data.train == Reversed(depth=5)
    save_config(config, tmp_path / "c.yaml")
    assert load_config(tmp_path / "c.yaml") == config
    problems, _ = problems_of(minimal(data={"train": {"type": "reversed_text", "depth": 0}}))
    assert list(problems) == ["data.train.depth"]
    problems, message = problems_of(minimal(data={"train": "reversed_texts"}))
    assert "did you mean reversed_text?" in message


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thing:
    type: str = "a"
    size: int = setting(1)

    @property
    def weight(self):
        return 2


def test_a_type_is_registered_once():
    registry = Registry("thing")
    registry.register("a", builds="a.b:C")(Thing)
    with pytest.raises(
        RegistryError, match=r"thing type 'a' is registered twice, by tests.config.test_build"
    ):
        registry.register("a", builds=None)(Thing)
    assert registry.get(["a"]) is None
    assert Thing.builds == "a.b:C"


@pytest.mark.parametrize(
    ("cls", "builds", "words"),
    [
        (int, None, "is no dataclass; write @dataclasses.dataclass"),
        (Thing, "a.b.C", "builds 'a.b.C', which is no address; write package.module:name"),
        (Thing, "a b:C", "which is no address"),
    ],
)
def test_what_is_no_type_is_not_registered(cls, builds, words):
    registry = Registry("thing", needs=("size", "weight"))
    with pytest.raises(RegistryError, match=re.escape(words)):
        registry.register("a", builds=builds)(cls)
    with pytest.raises(RegistryError, match="lacks length, which every thing has; declare it in Thing"):
        Registry("thing", needs=("length", "size")).register("a", builds=None)(Thing)
    assert registry.names() == []
    registry.register("a", builds=None)(Thing)


def test_build_and_to_mapping_are_inverse_for_nested_dataclasses():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Point:
        x: float = setting(0.0)
        tags: tuple[str, ...] = setting(())

    problems: list[Problem] = []
    point = build(Point, {"x": 1, "tags": "one"}, "", problems)
    assert not problems
    assert point == Point(x=1.0, tags=("one",))
    assert build(Point, to_mapping(point), "", problems) == point

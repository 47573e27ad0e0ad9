"""LoRA: nothing at first, little to train, and in the end a model like any other."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text  # noqa: F401  the operations of an export

import tfllm
from tests.marks import mostly_slow
from tests.tiny import randomized, tiny_lm
from tests.training.toy import (
    DIVISIONS,
    assert_computed_again_alike,
    assert_same_training,
    batches,
    run_steps,
    toy_model,
    toy_step,
)
from tfllm.commands.main import main
from tfllm.config import ConfigError, config_from_mapping
from tfllm.convert.errors import ConvertError
from tfllm.experiment import expand, make_model, start_from_source
from tfllm.experiment.cost import flops_per_token
from tfllm.experiment.model_source import pretrained_tokenizer
from tfllm.language_model import LanguageModel
from tfllm.layers.low_rank import LowRank
from tfllm.models.decoder import Decoder
from tfllm.models.encoder import Encoder
from tfllm.models.encoder_decoder import EncoderDecoder
from tfllm.peft.errors import PeftError
from tfllm.peft.lora import Lora, copy_merged
from tfllm.peft.targets import projections
from tfllm.training.checkpoint_folder import checkpoint_paths, verified_manifest

SIZES = {"vocab_size": 23, "hidden_dim": 16, "num_heads": 4, "max_seq_len": 24}
MODELS = {
    "decoder": lambda: Decoder(num_layers=2, num_kv_heads=2, **SIZES),
    "gpt": lambda: Decoder(num_layers=2, activation="gelu", use_bias=True, tie_embeddings=False, **SIZES),
    "encoder": lambda: Encoder(num_layers=2, head="masked_lm", **SIZES),
    "encoder_decoder": lambda: EncoderDecoder(num_encoder_layers=1, num_decoder_layers=2, **SIZES),
}
IDS = tf.constant([[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]])


def has_low_rank(model):
    return any(projection.beside is not None for projection in projections(model).values())


def logits(model):
    if isinstance(model, EncoderDecoder):
        return model({"encoder_token_ids": IDS, "decoder_token_ids": IDS[:, ::-1]})["logits"].numpy()
    return model({"token_ids": IDS})["logits"].numpy()


def shaken(model, seed=0):
    """Draws the matrices of low rank anew, none of them zero."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if "/lora/" in variable.path:
            variable.assign(rng.normal(0, 0.3, variable.shape))
    return model


@pytest.mark.parametrize("name", MODELS)
def test_it_adds_nothing_at_first_and_all_of_it_can_be_merged(name):
    model = randomized(MODELS[name]())
    before = logits(model)
    assert not has_low_rank(model)
    Lora(rank=3, alpha=5.0).attach(model)
    assert has_low_rank(model) and (logits(model) == before).all()
    inside = [path for path in projections(model) if "/block_" in path]
    trained = {variable.path for variable in model.trainable_variables}
    assert trained == {f"{path}/lora/{part}" for path in inside for part in "ab"}
    unmerged = logits(shaken(model))
    assert np.abs(unmerged - before).max() > 0.1
    plain = MODELS[name]()
    plain.build()
    copy_merged(model, plain)
    np.testing.assert_allclose(logits(plain), unmerged, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("scaling", "scale"), [("standard", 6 / 4), ("rslora", 6 / 2)])
def test_what_is_added_is_x_a_b_times_its_scale(scaling, scale):
    model = randomized(MODELS["gpt"]())
    Lora(rank=4, alpha=6.0, targets=["query"], scaling=scaling).attach(model)
    shaken(model)
    query = model.blocks[1].attention.query
    x = np.random.default_rng(0).normal(size=[2, 5, 16]).astype(np.float32)
    kernel, bias, a, b = (v.numpy().astype(np.float64) for v in query.variables)
    np.testing.assert_allclose(
        query(tf.constant(x)), x @ kernel + bias + x @ a @ b * scale, rtol=1e-5, atol=1e-5
    )


def test_only_what_is_named_is_adapted_and_trained():
    model = MODELS["gpt"]()
    model.build()
    Lora(
        rank=2,
        alpha=2.0,
        targets=["value", "*/block_00/feed_forward/*", "output_projection"],
        train=["*final_norm*"],
    ).attach(model)
    adapted = {path for path, each in projections(model).items() if each.beside is not None}
    assert adapted == {
        *(f"decoder/block_0{n}/attention/value" for n in range(2)),
        *(f"decoder/block_00/feed_forward/{name}" for name in ("up", "down")),
        "decoder/output_projection",
    }
    others = {v.path for v in model.trainable_variables if "/lora/" not in v.path}
    assert others == {"decoder/final_norm/scale"}


def test_a_new_head_is_trained_whole():
    model = Encoder(num_layers=1, head="sequence_classification", pooler="tanh", num_classes=3, **SIZES)
    model.build()
    Lora(rank=2, alpha=2.0).attach(model, with_head=True)
    others = {v.path for v in model.trainable_variables if "/lora/" not in v.path}
    assert others == {
        f"encoder/{name}"
        for name in ("pooler/dense/kernel", "pooler/dense/bias", "classifier/kernel", "classifier/bias")
    }


BAD = [
    (
        {"targets": ["q_proj"]},
        "peft.targets=q_proj names no projection of the model; there are down, gate, key, output",
    ),
    (
        {"rank": 17},
        r"peft.rank=17 exceeds the rank that decoder/block_00/attention/key, a matrix of 16 x 8, can have; write at most 8",
    ),
    (
        {"rank_pattern": {"*": 1, "value": 2}},
        "peft.rank_pattern.value fits none of the 14 projections that peft.targets names, or only such as a pattern",
    ),
    ({"train": ["*/nothing"]}, r"peft.train=\*/nothing matches no variable; there are for example decoder/"),
]


@pytest.mark.parametrize(("keys", "words"), BAD, ids=str)
def test_what_is_not_there_is_told(keys, words):
    model = MODELS["decoder"]()
    model.build()
    with pytest.raises(PeftError, match=words):
        Lora(**{"rank": 2, "alpha": 2.0, **keys}).attach(model)


def adapted_toy(dropout=0.1, **arguments):
    model = toy_model(dropout=dropout, **arguments)
    Lora(rank=2, alpha=4.0, dropout=0.3).attach(model)
    return shaken(model)


def taken(**division):
    step = toy_step(make=adapted_toy, optimizer="adamw", learning_rate=0.02, **division)
    frozen = {v.path: v.numpy() for v in step.model.variables if not v.trainable}
    trained = {v.path for v in step.model.trainable_variables}
    assert len(frozen) > 5 and all("/lora/" in path for path in trained)
    state = sum(np.size(v.numpy()) for v in step.optimizer.variables)
    assert state < 3 * sum(np.prod(v.shape) for v in step.model.trainable_variables)
    result = run_steps(step, 6, batches(0, 6))
    assert all((v.numpy() == frozen[v.path]).all() for v in step.model.variables if not v.trainable)
    return result


@pytest.fixture(scope="module")
def undivided():
    return taken()


@pytest.mark.parametrize("division", mostly_slow(["4 microbatches", "2 x 2"], ["4 microbatches"]))
def test_divided_with_dropout_it_trains_as_one_batch(division, undivided):
    assert_same_training(taken(**DIVISIONS[division]), undivided, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("remat", ["attention", "block"])
def test_what_is_computed_again_drops_alike(remat):
    assert_computed_again_alike(adapted_toy, remat)


def test_a_frozen_matrix_costs_no_gradient_by_it():
    model = randomized(MODELS["decoder"]())
    whole = flops_per_token(model, 8)
    Lora(rank=1, alpha=1.0, targets=["query"]).attach(model)
    matrices = sum(
        np.prod(v.shape) for v in model.variables if "block_" in v.path and v.path.endswith("kernel")
    )
    added = 2 * 2 * 16
    assert flops_per_token(model, 8) == whole + 6 * added - 2 * matrices


def test_the_drawing_of_a_low_rank_is_that_of_peft():
    layer = LowRank(units=7, rank=400, name="lora")
    layer.build((None, None, 25))
    a = layer.a.numpy()
    assert abs(a).max() < 0.2 and abs(a).max() > 0.19 and a.std() == pytest.approx(0.2 / 3**0.5, rel=0.03)
    assert not layer.b.numpy().any()


YAML = """
name: tuned
model: {{type: pretrained, source: {base}, dropout: 0.1}}
peft: {{type: lora, rank: 4, alpha: 8, dropout: 0.1, train: ["*final_norm*"]}}
data: {{train: {{type: text_files, path: "{folder}/text.txt", split_on: "\\n\\n"}}, seq_len: 16, num_workers: 1}}
optimizer: {{type: adamw, learning_rate: 0.02, weight_decay: 0.0, schedule: constant}}
training: {{steps: 12, global_batch_size: 4, jit_compile: false, log_every: 1}}
generation: {{max_new_tokens: 4, temperature: 0.0}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora")
    tiny_lm().save(folder / "base")
    rng = np.random.default_rng(0)
    words = ["fox", "dog", "lazy", "quick", "brown"]
    (folder / "text.txt").write_text("\n\n".join(" ".join(rng.choice(words, 12)) for _ in range(60)))
    (folder / "config.yaml").write_text(YAML.format(base=folder / "base", folder=folder))
    assert main(["train", str(folder / "config.yaml"), "--run-dir", str(folder / "run")]) == 0
    return folder


def losses(run):
    entries = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [entry["loss"] for entry in entries if entry["split"] == "train"]


def test_a_run_starts_from_its_base_and_can_be_used_as_any_other(folder, capfd):
    base, lm = (tfllm.load(folder / name, jit_compile=False) for name in ("base", "run"))
    found = losses(folder / "run")
    assert found[-1] < found[0] - 0.5
    weights = {v.path: v.numpy() for v in base.model.variables}
    for variable in lm.model.variables:
        if "/lora/" not in variable.path and "final_norm" not in variable.path:
            assert (variable.numpy() == weights[variable.path]).all(), variable.path
    merged = lm.merged()
    assert not has_low_rank(merged.model) and merged.config.peft is None and base.merged() is base
    ids = merged.features("the quick fox")
    np.testing.assert_allclose(merged.model(ids)["logits"], lm.model(ids)["logits"], rtol=1e-5, atol=1e-5)
    prompts = ["the quick", "lazy dog brown"]
    assert merged.generate(prompts) == lm.generate(prompts) != base.generate(prompts)

    lm.save(folder / "saved")
    again = tfllm.load(folder / "saved", jit_compile=False)
    assert (again.model(ids)["logits"].numpy() == lm.model(ids)["logits"].numpy()).all()
    lm.save(folder / "huggingface", to="huggingface")
    theirs = tfllm.load(folder / "huggingface", jit_compile=False)
    np.testing.assert_allclose(theirs.model(ids)["logits"], lm.model(ids)["logits"], rtol=1e-5, atol=1e-5)

    capfd.readouterr()
    assert main(["export", str(folder / "run"), "--to", str(folder / "export")]) == 0
    served = tf.saved_model.load(str(next((folder / "export").iterdir())))
    written = served.signatures["serving_default"](prompt=tf.constant(prompts))
    assert [text.decode() for text in written["text"].numpy()] == lm.generate(prompts)
    assert main(["inspect", str(folder / "run")]) == 0
    assert "of them trained" in capfd.readouterr().out


@pytest.mark.slow
def test_a_run_that_stopped_goes_on_as_if_it_had_not(folder):
    command = ["train", str(folder / "config.yaml"), "--run-dir", str(folder / "stopped")]
    assert main([*command, "training.steps=5"]) == 0 and main(command) == 0
    assert losses(folder / "stopped") == losses(folder / "run")
    one, other = (tfllm.load(folder / name, jit_compile=False).model for name in ("run", "stopped"))
    for a, b in zip(one.variables, other.variables, strict=True):
        assert (a.numpy() == b.numpy()).all(), a.path


@pytest.mark.slow
def test_another_run_starts_from_what_it_came_to(folder):
    lm = tfllm.load(folder / "run", jit_compile=False)
    ids = lm.features("the quick fox")
    for name, more in (("whole", ["peft=null"]), ("twice", [])):
        command = ["train", str(folder / "config.yaml"), "--run-dir", str(folder / name)]
        settings = [
            f"model.source={folder / 'run'}",
            "training.steps=1",
            "optimizer.learning_rate=1e-12",
            *more,
        ]
        assert main([*command, *settings]) == 0
        other = tfllm.load(folder / name, jit_compile=False)
        assert has_low_rank(other.model) is (name == "twice")
        np.testing.assert_allclose(other.model(ids)["logits"], lm.model(ids)["logits"], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_an_adapter_of_it_stands_beside_its_base_and_can_be_gone_on_from(folder, capfd):
    lm = tfllm.load(folder / "run", jit_compile=False)
    ids = lm.features("the quick fox")
    logits = lm.model(ids)["logits"].numpy()
    assert main(["convert", str(folder / "run"), str(folder / "adapter"), "--to", "peft"]) == 0
    for name in ("base", None):
        source = folder / "adapter" if name is None else folder / name
        loaded = tfllm.load(source, adapter=None if name is None else folder / "adapter", jit_compile=False)
        assert (loaded.model(ids)["logits"].numpy() == logits).all()
        assert loaded.config.generation == lm.config.generation
        assert loaded.generate("the quick") == lm.generate("the quick")
    capfd.readouterr()
    assert main(["inspect", str(folder / "adapter")]) == 0
    assert "trained whole" in capfd.readouterr().out

    command = ["train", str(folder / "config.yaml"), "--run-dir", str(folder / "on")]
    settings = ["training.steps=1", "optimizer.learning_rate=1e-12"]
    peft = f"peft={{type: lora, source: {folder / 'adapter'}}}"
    assert main([*command, *settings, peft]) == 0
    on = tfllm.load(folder / "on", jit_compile=False)
    assert on.config.peft.rank == 4 and on.config.peft.train == ("*/final_norm/scale",)
    np.testing.assert_allclose(on.model(ids)["logits"], logits, rtol=1e-4, atol=1e-4)
    refused = f"peft={{type: lora, rank: 2, source: {folder / 'adapter'}}}"
    assert main([*command[:-1], str(folder / "no"), *settings, refused]) == 2
    assert "peft.rank=2 is 4 in" in capfd.readouterr().err

    whole = [f"model.source={folder / 'adapter'}", "peft=null", *settings]
    assert main([*command[:-1], str(folder / "summed"), *whole]) == 0
    summed = tfllm.load(folder / "summed", jit_compile=False)
    np.testing.assert_allclose(summed.model(ids)["logits"], logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_are_kept_with_the_adapter(tied, tmp_path):
    tiny_lm(tie_embeddings=tied).save(tmp_path / "base")
    train = ["*/token_embedding/*", *([] if tied else ["*/output_projection/*"])]
    mapping = {
        "name": "more",
        "model": {"type": "pretrained", "source": str(tmp_path / "base")},
        "tokenizer": {"type": "pretrained", "extra_special_tokens": ["<|a|>", "<|b|>", "<|c|>"]},
        "peft": {"type": "lora", "rank": 2, "train": train},
        "data": {"train": {"type": "text_files", "path": "text.txt"}, "seq_len": 16},
        "generation": {"max_new_tokens": 4},
    }
    config = expand(config_from_mapping(mapping, for_training=False))
    tokenizer = pretrained_tokenizer(config)
    model = make_model(config, tokenizer.vocab_size)
    start_from_source(config, model)
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(variable + rng.normal(0, 0.1, variable.shape))
    lm = LanguageModel(model, tokenizer, config, jit_compile=False)
    lm.save(tmp_path / "adapter", to="peft")
    again = tfllm.load(tmp_path / "base", adapter=tmp_path / "adapter", jit_compile=False)
    assert again.tokenizer.vocab_size == 293 and again.config.model.vocab_size == 293
    assert again.tokenizer.fingerprint == tokenizer.fingerprint
    ids = {"token_ids": tf.constant([[5, 290, 7, 291, 9, 292]])}
    assert (again.model(ids)["logits"].numpy() == lm.model(ids)["logits"].numpy()).all()
    alone = tfllm.load(tmp_path / "base", jit_compile=False)
    with pytest.raises(
        ConvertError, match="so it cannot be put in its place; load the adapter with its base"
    ):
        alone.use_adapter(tmp_path / "adapter")


def test_checkpoints_hold_what_is_trained_and_know_their_base(folder, tmp_path):
    run = folder / "run"
    [*_, newest] = checkpoint_paths(run / "checkpoints")
    manifest = verified_manifest(newest)
    saved = {name for name in manifest["variables"] if name.startswith("model/")}
    assert saved == {name for name in saved if "/lora/" in name or name == "model/decoder/final_norm/scale"}
    lm = tfllm.load(run, jit_compile=False)
    whole = sum(np.prod(v.shape) for v in lm.model.variables)
    assert 0 < sum(np.prod(s["shape"]) for s in manifest["variables"].values()) < whole

    ids = lm.features("the quick fox")
    logits = lm.model(ids)["logits"].numpy()
    shutil.copytree(run, tmp_path / "run")  # its base is found where it was
    moved = tfllm.load(tmp_path / "run", jit_compile=False)
    assert (moved.model(ids)["logits"].numpy() == logits).all()
    lm.save(tmp_path / "saved")  # holds all
    config = (tmp_path / "run" / "config.yaml").read_text()
    (tmp_path / "run" / "config.yaml").write_text(
        config.replace(str(folder / "base"), str(tmp_path / "other"))
    )
    rng = np.random.default_rng(1)
    other = tfllm.load(folder / "base", jit_compile=False)
    for variable in other.model.variables:
        variable.assign(rng.normal(0, 0.1, variable.shape))
    other.save(tmp_path / "other")
    with pytest.raises(ConvertError, match="was trained beside other weights than those of"):
        tfllm.load(tmp_path / "run")

    shutil.rmtree(tmp_path / "other")
    assert (tfllm.load(tmp_path / "run", jit_compile=False).model(ids)["logits"].numpy() == logits).all()
    (folder / "base").rename(folder / "away")
    try:
        with pytest.raises(
            ConfigError, match=r"is the base of .*, whose weights its checkpoints leave out, and cannot"
        ):
            tfllm.load(tmp_path / "run")
    finally:
        (folder / "away").rename(folder / "base")
    again = tfllm.load(tmp_path / "saved", jit_compile=False)
    assert (again.model(ids)["logits"].numpy() == logits).all()


REFUSED = [
    ({"model": "decoder"}, "peft=lora freezes a model whose weights were drawn at random; name model.source"),
    ({"peft": {"type": "lora", "targets": []}}, r"peft.targets=\[\] names nothing"),
    ({"peft": {"type": "lora", "rank": 0}}, "peft.rank=0 must be at least 1"),
    (
        {"peft": {"type": "lora", "rank_pattern": {"query": 0}}},
        "peft.rank_pattern.query=0 must be at least 1",
    ),
    (
        {"peft": {"type": "lora", "alpha_pattern": {"query": -1}}},
        r"peft.alpha_pattern.query=-1.0 must be above 0.0",
    ),
    ({"peft": "dora"}, "peft.type=dora is not a known peft"),
    (
        {"tokenizer": {"type": "pretrained", "extra_special_tokens": ["<|new|>"]}},
        r"adds tokens whose embeddings peft freezes as they begin; write peft.train: \[\"\*/token_embedding/\*\"\]",
    ),
]


@pytest.mark.parametrize(("sections", "words"), REFUSED, ids=str)
def test_what_would_be_frozen_and_was_never_trained_is_refused(sections, words):
    mapping = {
        "name": "x",
        "model": {"type": "pretrained", "source": "somewhere"},
        "peft": "lora",
        "data": {"train": {"type": "text_files", "path": "a.txt"}},
    }
    with pytest.raises(ConfigError, match=words):
        config_from_mapping({**mapping, **sections})

"""Adapters in PEFT's layout: what it computed from them, and folders that it opens.

With `TFLLM_PEERS`, as in `golden.py`, an interpreter that has PEFT too, what is written here is opened by it.
"""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file, save_file

import tfllm
from tests.convert.golden import PEERS, SCRIPTS, tensors_of, training_batch, write_checkpoint
from tests.convert.goldens.adapter_cases import ADAPTER_CASES, adapter_weight
from tests.convert.goldens.cases import direction
from tests.convert.goldens.encoder_cases import ENCODER_CASES, encoder_batch
from tests.convert.test_encoder_parity import assert_same_outputs, features, loss_of
from tfllm.config import ConfigError
from tfllm.convert.adapter import CONFIG_FILE, PREFIX, WEIGHTS_FILE, keeps_inputs_first
from tfllm.convert.errors import ConvertError
from tfllm.experiment.adapter import read_adapter_for
from tfllm.peft.targets import low_rank_layers, projections

TOLERANCE = 2e-5


def quiet(line):
    del line


def load_golden(name):
    with np.load(SCRIPTS / f"{name}.npz") as file:
        return dict(file)


def tensors_of_adapter(name):
    shapes = json.loads(str(load_golden(name)["shapes"]))
    return {key: adapter_weight(key, tuple(shape)) for key, shape in shapes.items()}


def write_adapter(folder, name, *, tensors=None, **changes):
    """Writes the adapter of a case, its config changed; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**json.loads(str(load_golden(name)["adapter_config"])), **changes}
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    save_file(tensors_of_adapter(name) if tensors is None else tensors, folder / WEIGHTS_FILE)
    return folder


def opened(base, adapter):
    return tfllm.load(base, adapter=adapter, jit_compile=False, notify=quiet)


def outputs_and_loss(model, case, keys):
    """As `make_adapter_goldens.py` has them."""
    if case in ENCODER_CASES:
        found = model(features(case))
        return found, loss_of({key: found[key] for key in keys}, encoder_batch(case)["mask"])
    given, said, weights, mask = training_batch(case)
    given = {key: tf.constant(x, tf.bool if x.dtype == bool else tf.int32) for key, x in given.items()}
    logits = model(given)["logits"]
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.constant(said, tf.int32), logits)
    loss = tf.reduce_sum(losses * weights) / np.sum(weights)
    return {"logits": tf.boolean_mask(logits, mask)}, loss


def assert_outputs(found, golden, case):
    expected = {k.removeprefix("output_"): v for k, v in golden.items() if k.startswith("output_")}
    mask = encoder_batch(case)["mask"] if case in ENCODER_CASES else None
    assert_same_outputs(found, expected, mask, TOLERANCE)


# One of each kind: patterns, fused matrices, a head, two stacks.
_FAST = ("llama_adapter", "gpt2_adapter", "bert_sentences_adapter", "t5_adapter")
_CASES = [pytest.param(name, marks=() if name in _FAST else pytest.mark.slow) for name in ADAPTER_CASES]


@pytest.fixture(scope="module", params=_CASES)
def case(request, tmp_path_factory):
    """The name of the case, the base's, their folders, and the two loaded."""
    name, base = request.param, ADAPTER_CASES[request.param][0]
    folder = tmp_path_factory.mktemp(name)
    write_checkpoint(folder / "base", base)
    write_adapter(folder / "adapter", name)
    return name, base, folder, opened(folder / "base", folder / "adapter")


def test_outputs_loss_and_gradients_are_those_of_peft(case):
    name, base, folder, lm = case
    golden = load_golden(name)
    with tf.GradientTape() as tape:
        found, loss = outputs_and_loss(lm.model, base, {k[7:] for k in golden if k.startswith("output_")})
    assert_outputs(found, golden, base)
    np.testing.assert_allclose(loss, golden["loss"], rtol=1e-5)
    if name == "llama_adalora":  # read as what its training came to
        return

    trained = {v.path.split("/", 1)[1]: v for v in lm.model.trainable_variables}
    grads = dict(zip(trained, tape.gradient(loss, list(trained.values())), strict=True))
    wanted = dict(zip(golden["names"], golden["gradients"], strict=True))
    adapter, _ = read_adapter_for(lm.config, folder / "adapter")
    theirs = {}
    for pair in adapter.pairs:
        module = _key(wanted, pair.row.theirs.removesuffix(".weight") + ".lora_A.weight")
        paths = [path.removesuffix("/kernel") for path in pair.row.ours]
        a, b = ([grads[f"{path}/lora/{part}"].numpy() for path in paths] for part in "ab")
        joined = pair.row.layout.join(b)
        theirs[module] = sum(a).T
        theirs[module.replace("lora_A", "lora_B")] = joined.T if keeps_inputs_first(pair.row) else joined
    for row, _ in adapter.whole:
        key = _key(wanted, row.theirs)
        theirs[key] = row.layout.join([grads[path].numpy() for path in row.ours])
    assert theirs.keys() == wanted.keys()
    for key, (norm, product) in wanted.items():
        gradient = theirs[key]
        assert abs(np.linalg.norm(gradient) - norm) < 2e-5 * max(1.0, norm), key
        assert abs(np.sum(gradient * direction(key, gradient.shape)) - product) < 5e-5 * max(1.0, norm), key


def _key(wanted, theirs):
    """What the golden calls a tensor, which may leave the family's prefix out."""
    names = (theirs, theirs.partition(".")[2])
    return next(key for key in wanted if key.removeprefix(PREFIX).replace(".base_layer", "") in names)


def test_what_is_written_is_read_again_and_is_what_was_read(case):
    name, base, folder, lm = case
    lm.save(folder / "ours", to="peft")
    keys = {k[7:] for k in load_golden(name) if k.startswith("output_")}
    again = tfllm.load(folder / "ours", jit_compile=False, notify=quiet)  # which names its base
    assert again.config.model == lm.config.model
    found, _ = outputs_and_loss(again.model, base, keys)
    assert_outputs(found, load_golden(name), base)
    theirs, ours = (load_file(folder / part / WEIGHTS_FILE) for part in ("adapter", "ours"))
    if not name.startswith(
        ("gpt", "llama_adalora")
    ):  # fused matrices become one pair of three, E a part of A
        assert ours.keys() >= theirs.keys()
        assert all((ours[key] == theirs[key]).all() for key in theirs)
    found, _ = outputs_and_loss(lm.merged().model, base, keys)
    assert_outputs(found, load_golden(name), base)
    if PEERS is not None:
        assert_outputs(computed_by_peft(folder / "ours", name), load_golden(name), base)


def computed_by_peft(folder, name):
    command = [Path(PEERS).expanduser(), SCRIPTS / "make_adapter_goldens.py"]
    result = folder.with_name("computed.npz")
    subprocess.run([*command, "--open", folder, "--cases", name, "--to", result], check=True)
    with np.load(result) as file:
        return dict(file)


def test_another_adapter_takes_the_place_of_one(tmp_path):
    write_checkpoint(tmp_path / "base", "qwen3")
    first = write_adapter(tmp_path / "first", "qwen3_adapter")
    rng = np.random.default_rng(0)
    other = {
        key: rng.normal(0, 0.3, [2 if n == 3 else n for n in x.shape]).astype(np.float32)
        for key, x in tensors_of_adapter("qwen3_adapter").items()
        if "lora_" in key
    }
    second = write_adapter(tmp_path / "second", "qwen3_adapter", tensors=other, r=2, bias="none")
    ids = {"token_ids": tf.constant([[3, 1, 4, 1, 5, 9]])}

    def logits(lm):
        return lm.model(ids)["logits"].numpy()

    alone = {folder: logits(opened(tmp_path / "base", folder)) for folder in (first, second)}
    lm = tfllm.load(tmp_path / "base", jit_compile=False, notify=quiet)
    base = logits(lm)
    for folder in (first, second, None, second, first, None):
        lm.use_adapter(folder)
        assert (logits(lm) == (base if folder is None else alone[folder])).all()
        assert (lm.config.peft is None) == (folder is None)
        beside = [each for each in projections(lm.model).values() if each.beside is not None]
        assert len(beside) == (0 if folder is None else 6)
    shutil.rmtree(second)
    lm.use_adapter(first)
    with pytest.raises(ConvertError, match=r"holds no adapter_config\.json"):
        lm.use_adapter(second)
    assert (logits(lm) == alone[first]).all()
    wider = {k: np.pad(v, [[0, 0], [0, 8]]) if "lora_A" in k else v for k, v in other.items()}
    write_adapter(tmp_path / "wider", "qwen3_adapter", tensors=wider, r=2, bias="none")
    with pytest.raises(ConvertError, match="is for a matrix of 48 x 24, and this model's is 40 x 24"):
        lm.use_adapter(tmp_path / "wider")
    assert (logits(lm) == alone[first]).all()
    loaded = opened(tmp_path / "base", first)
    with pytest.raises(ConvertError, match="trained whole by the adapter that the model was loaded with"):
        loaded.use_adapter(None)


def test_a_head_is_taken_from_the_adapter_where_the_base_has_none(tmp_path):
    name, case = "bert_sentences_adapter", "bert_sentences"
    bare = {k.removeprefix("bert."): v for k, v in tensors_of(case).items() if not k.startswith("classifier")}
    config = {"model_type": "bert", "architectures": ["BertModel"], **ENCODER_CASES[case][2]}
    config.pop("id2label")
    write_checkpoint(tmp_path / "base", case, config=config, tensors=bare)
    adapter = write_adapter(tmp_path / "adapter", name)
    lm = opened(tmp_path / "base", adapter)
    found, _ = outputs_and_loss(lm.model, case, {"hidden_states", "logits"})
    assert_outputs(found, load_golden(name), case)
    # Of a base without a pooler, whose file leaves it out and whose adapter does not hold it.
    unpooled = {k: v for k, v in bare.items() if "pooler" not in k}
    write_checkpoint(tmp_path / "unpooled", case, config=config, tensors=unpooled)
    with pytest.raises(
        ConvertError, match="pooler/dense/kernel stands neither in the adapter nor in its base"
    ):
        opened(tmp_path / "unpooled", adapter)


def test_the_name_of_an_adapter_may_stand_in_its_file_and_patterns_may_be_long(tmp_path):
    base = write_checkpoint(tmp_path / "base", "llama")
    named = {
        key.replace(".weight", ".default_0.weight") if "lora_" in key else key: value
        for key, value in tensors_of_adapter(LLAMA).items()
    }
    pattern = r".*\.layers\.1\..*(q_proj|k_proj|v_proj|o_proj)$"
    folder = write_adapter(tmp_path / "adapter", LLAMA, tensors=named, alpha_pattern={pattern: 12})
    plain = write_adapter(tmp_path / "plain", LLAMA)
    one, other = (
        {
            path: (layer.scale, layer.b.numpy())
            for path, layer in low_rank_layers(opened(base, each).model).items()
        }
        for each in (folder, plain)
    )
    for path, (scale, b) in one.items():
        assert (b == other[path][1]).all()
        again = "/block_01/attention/" in path
        rank = len(b)
        assert scale == (12 if again else 6) / rank, path


def test_directions_that_fell_to_nothing_are_left_out(tmp_path):
    base = write_checkpoint(tmp_path / "base", "llama_tied_linear")
    tensors = tensors_of_adapter("llama_adalora")
    gone = PREFIX + "model.layers.1.self_attn.v_proj"
    for key in [key for key in tensors if key.startswith(gone)]:
        tensors[key] = np.zeros([0 if n == 4 else n for n in tensors[key].shape], np.float32)
    lm = opened(base, write_adapter(tmp_path / "adapter", "llama_adalora", tensors=tensors))
    beside = low_rank_layers(lm.model)
    assert len(beside) == 8 and "decoder/block_01/attention/value" not in beside


LLAMA, LAYER = "llama_adapter", PREFIX + "model.layers.0.self_attn.q_proj"


def changed(change):
    """The tensors of the case, changed."""
    tensors = tensors_of_adapter(LLAMA)
    change(tensors)
    return tensors


BAD = {
    "dora": (
        {"use_dora": True},
        r"use_dora=True: it scales the columns of the sums \(DoRA\), which is not computed",
    ),
    "pissa": ({"init_lora_weights": "pissa"}, r"init_lora_weights='pissa' begins by changing the base"),
    "prompts": (
        {"peft_type": "PROMPT_TUNING"},
        "peft_type='PROMPT_TUNING' is not read; adapters of type LORA and ADALORA are",
    ),
    "biased": ({"lora_bias": True}, "lora_bias=True: its matrices have biases"),
    "token rows": ({"trainable_token_indices": [1]}, "holds rows of an embedding apart"),
    "later": ({"use_new_trick": True}, "'use_new_trick'=True is not known; merge it into its base"),
    "rank of text": ({"r": "8"}, "r='8' must be a whole number above 0"),
    "another rank": ({"r": 9}, r"are \[4, 40\] and \[24, 4\], and adapter_config.json says rank 9"),
    "saved": ({"modules_to_save": ["lm_head"]}, "modules_to_save names 'lm_head', of which .* holds nothing"),
    "slow pattern": ({"alpha_pattern": {"(a+)+": 1}}, r"alpha_pattern has '\(a\+\)\+', which is no pattern"),
    "no pattern": ({"alpha_pattern": {"(": 1}}, r"alpha_pattern has '\(', which is no pattern"),
    "alpha of zero": ({"alpha_pattern": {"q_proj": 0}}, "alpha_pattern gives 'q_proj' 0; it must be above 0"),
    "nothing": (
        {"tensors": lambda t: t.clear()},
        "adapter_model.safetensors holds nothing; save the adapter again",
    ),
    "one half": (
        {"tensors": lambda t: t.pop(LAYER + ".lora_B.weight")},
        "q_proj.lora_A.weight' has no other half; download it again",
    ),
    "another model": (
        {
            "tensors": lambda t: t.update(
                {PREFIX + "transformer.h.0.attn.c_attn.lora_A.weight": t[LAYER + ".lora_A.weight"]}
            )
        },
        r"c_attn.lora_A.weight' belongs to no part of this model, read as a llama; it has for example",
    ),
    "wider": (
        {"tensors": lambda t: t.update({LAYER + ".lora_A.weight": np.zeros([2, 32], np.float32)})},
        r"for decoder/block_00/attention/query/lora/a is \[32, 2\], and the model wants \[24, 2\]",
    ),
    "embedding": (
        {
            "tensors": lambda t: t.update(
                {PREFIX + "model.embed_tokens.lora_embedding_A": np.zeros([2, 61], np.float32)}
            )
        },
        "adds to an embedding, which is not computed",
    ),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("base") / "llama", "llama")


@pytest.mark.parametrize("what", BAD)
def test_what_is_not_computed_or_does_not_fit_is_told(what, base, tmp_path):
    changes, words = BAD[what]
    tensors = changed(changes["tensors"]) if "tensors" in changes else None
    config = {key: value for key, value in changes.items() if key != "tensors"}
    folder = write_adapter(tmp_path / "adapter", LLAMA, tensors=tensors, **config)
    with pytest.raises(ConvertError, match=words):
        opened(base, folder)


def test_damaged_and_missing_files_are_told(base, tmp_path):
    folder = write_adapter(tmp_path / "adapter", LLAMA)
    with pytest.raises(ConfigError, match=r"holds no adapter_config\.json"):
        opened(base, tmp_path)
    with pytest.raises(ConfigError, match="names no base"):
        tfllm.load(folder)
    write_adapter(folder, LLAMA, base_model_name_or_path="/home/nobody/base")
    with pytest.raises(
        ConfigError, match=r"base_model_name_or_path=/home/nobody/base is not there; give both: tfllm\.load"
    ):
        tfllm.load(folder)
    content = (folder / WEIGHTS_FILE).read_bytes()
    (folder / WEIGHTS_FILE).write_bytes(content[:-7])
    with pytest.raises(ConvertError, match="is truncated or corrupt"):
        opened(base, folder)
    (folder / WEIGHTS_FILE).rename(folder / "adapter_model.bin")
    with pytest.raises(ConvertError, match="is a Python pickle, which runs code when it is read"):
        opened(base, folder)
    (folder / CONFIG_FILE).write_text("{")
    with pytest.raises(ConvertError, match="is not a JSON file"):
        opened(base, folder)


def test_a_base_with_other_weights_is_refused(base, tmp_path):
    lm = opened(base, write_adapter(tmp_path / "adapter", LLAMA))
    lm.save(tmp_path / "ours", to="peft")
    rng = np.random.default_rng(0)
    near = {k: v + 0.02 * rng.normal(size=v.shape).astype(np.float32) for k, v in tensors_of("llama").items()}
    write_checkpoint(tmp_path / "near", "llama", tensors=near)  # as one that was quantized since
    opened(tmp_path / "near", tmp_path / "ours")
    far = {key: rng.permutation(value.ravel()).reshape(value.shape) for key, value in near.items()}
    write_checkpoint(tmp_path / "far", "llama", tensors=far)
    with pytest.raises(ConvertError, match="was trained beside other weights than those of"):
        opened(tmp_path / "far", tmp_path / "ours")

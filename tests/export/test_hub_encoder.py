"""Our encoders in the interface of TensorFlow Hub, read back, trained on, and loaded without tfllm."""

import functools
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.tiny import randomized
from tfllm.export.bert_packer import BertPacker
from tfllm.export.errors import ExportError
from tfllm.export.hub_encoder import export_hub_encoder
from tfllm.layers.pooling import mean_pool
from tfllm.models.encoder import Encoder
from tfllm.models.errors import ModelError
from tfllm.models.hub_encoder import HubEncoder
from tfllm.models.hub_preprocessor import HubPreprocessor
from tfllm.models.hub_text_embedding import HubTextEmbedding
from tfllm.tokenizers.framing import Framing
from tfllm.tokenizers.wordpiece import WordPieceTokenizer
from tfllm.training.model_checkpoint import model_variables
from tfllm.training.optimizers import make_optimizer
from tfllm.training.train_step import TrainStep
from tfllm.training.update_rules import SGD

SPECIAL = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
WORDS = ["low", "##er", "##est", "new", "wide", ",", "a"]
TEXTS = ["Lower, newer", "a", "widest low low low low low low low", ""]
LENGTH = 8


BERT = Framing(prefix=(2,), separator=(3,), suffix=(3,))


def wordpiece(framing=BERT):
    return WordPieceTokenizer(
        {**SPECIAL, **{word: i for i, word in enumerate(WORDS, len(SPECIAL))}},
        special_tokens=SPECIAL,
        bos_token="[CLS]",
        eos_token="[SEP]",
        pad_token="[PAD]",
        other_roles={"unk_token": "[UNK]"},
        framing=framing,
    )


def small_encoder(**arguments):
    settings = {"num_layers": 2, "hidden_dim": 16, "num_heads": 2, "max_seq_len": 16, **arguments}
    return randomized(Encoder(vocab_size=len(SPECIAL) + len(WORDS), **settings))


@pytest.fixture(scope="module")
def model():
    return small_encoder(pooler="tanh", dropout=0.25, head="masked_lm")


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("hub") / "small"
    return export_hub_encoder(model, wordpiece(), path, seq_len=LENGTH, pooling="mean", normalize=True)


@pytest.fixture(scope="module")
def loaded(folder):
    return HubEncoder(handle=str(folder / "encoder"))


@pytest.fixture(scope="module")
def features(folder):
    preprocessor = HubPreprocessor(str(folder / "preprocess"))
    ds = tf.data.Dataset.from_tensor_slices(TEXTS).batch(4).map(preprocessor)
    rows = next(iter(ds))
    pair = preprocessor.pack([preprocessor.tokenize(tf.constant(x)) for x in (TEXTS, TEXTS[::-1])])
    rows = {name: tf.concat([rows[name], pair[name]], axis=0) for name in rows}
    return {**rows, "row_seeds": tf.range(8) * 7}


def relative(one, other):
    one, other = tf.convert_to_tensor(one), tf.convert_to_tensor(other)
    return float(tf.reduce_max(tf.abs(one - other)) / (tf.reduce_max(tf.abs(other)) + 1e-30))


def loss_of(outputs):
    return tf.reduce_sum(outputs["hidden_states"][:, 1] ** 2) + tf.reduce_sum(outputs["pooled"])


class SumOfSquares:
    coefficients = {"loss": 1.0}

    def weights(self, features):
        return {"loss": tf.cast(tf.shape(features["token_ids"])[0], tf.float32)}

    def loss(self, model, features, outputs):
        return {"loss": loss_of(outputs)}


def test_variables_keep_their_paths(model, loaded):
    paths = [v.path for v in loaded.trainable_variables]
    assert paths == [v.path for v in model.trainable_variables if "masked_lm_head" not in v.path]
    assert set(model_variables(loaded)) == {f"model/{path}" for path in paths}
    assert (loaded.hidden_dim, loaded.max_seq_len) == (16, None)


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
def test_outputs_and_gradients_are_those_of_the_model(model, loaded, features, training):
    def run(which, features):
        with tf.GradientTape() as tape:
            outputs = which(features, training=training)
            loss = loss_of(outputs)
        trained = [v.value for v in which.trainable_variables if "masked_lm_head" not in v.path]
        return outputs, list(map(tf.convert_to_tensor, tape.gradient(loss, trained)))

    # With shapes left open, as an export has them: TensorFlow picks other kernels where it knows them.
    specs = {k: tf.TensorSpec([None] * len(x.shape), x.dtype, name=k) for k, x in features.items()}
    ours, theirs = (
        tf.function(functools.partial(run, which), input_signature=[specs])(features)
        for which in (model, loaded)
    )
    for name in ("hidden_states", "pooled"):
        assert relative(theirs[0][name], ours[0][name]) < 1e-6
    for gradient, expected in zip(theirs[1], ours[1], strict=True):
        assert relative(gradient, expected) < 1e-6
    plain = loaded({k: v for k, v in features.items() if k != "row_seeds"}, training=True)
    assert relative(plain["hidden_states"], ours[0]["hidden_states"]) > 0.1 or not training


@pytest.mark.slow
def test_a_training_step_changes_it_alike(folder, features):
    ends, ours, theirs = (
        [],
        small_encoder(pooler="tanh", dropout=0.25),
        HubEncoder(handle=str(folder / "encoder")),
    )
    for one, other in zip(ours.variables, theirs.variables, strict=True):
        one.assign(other.numpy())
    for which in (ours, theirs):
        step = TrainStep(
            model=which,
            task=SumOfSquares(),
            optimizer=make_optimizer(SGD(), learning_rate=0.1, variables=which.trainable_variables),
            strategy=tf.distribute.get_strategy(),
            clip_norm=1.0,
            jit_compile=False,
        )
        before = [v.numpy() for v in which.trainable_variables]
        tf.function(step)(features)
        ends.append([v.numpy() - b for v, b in zip(which.trainable_variables, before, strict=True)])
    assert len(ends[0]) == len(ends[1]) > 20
    for one, other in zip(*ends, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert max(np.abs(change).max() for change in ends[1]) > 1e-3


@pytest.mark.slow
def test_frozen_it_computes_as_in_inference(folder, loaded, features):
    frozen = HubEncoder(handle=str(folder / "encoder"), trainable=False)
    assert frozen.trainable_variables == [] and len(frozen.variables) == len(loaded.variables)
    np.testing.assert_allclose(
        frozen(features, training=True)["pooled"], loaded(features, training=False)["pooled"], atol=1e-6
    )


@pytest.mark.slow
def test_it_is_itself_after_keras_saving(folder, features, tmp_path):
    model = HubEncoder(handle=str(folder / "encoder"))
    model.trainable_variables[0].assign_add(tf.ones_like(model.trainable_variables[0]))
    model(features)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(features)["pooled"], model(features)["pooled"], atol=1e-6)


@pytest.mark.slow
def test_it_can_be_exported_again(folder, loaded, tmp_path):
    preprocessor = HubPreprocessor(str(folder / "preprocess"))
    module = tf.Module()
    module.parts = [preprocessor, loaded.loaded]
    spec = [tf.TensorSpec([None], tf.string)]
    module.embed = tf.function(lambda texts: loaded(preprocessor(texts))["pooled"], input_signature=spec)
    tf.saved_model.save(module, str(tmp_path / "again"))
    again = tf.saved_model.load(str(tmp_path / "again"))
    texts = tf.constant(TEXTS)
    np.testing.assert_allclose(again.embed(texts), loaded(preprocessor(texts))["pooled"], atol=1e-6)


def test_the_text_embedding_is_the_mean_of_length_one(model, folder, features):
    embedding = HubTextEmbedding(handle=str(folder / "text_embedding"))
    rows = {name: x[:4] for name, x in features.items() if name != "row_seeds"}
    mean = mean_pool(model(rows)["hidden_states"], rows["padding_mask"])
    expected = mean / tf.norm(mean, axis=-1, keepdims=True)
    np.testing.assert_allclose(embedding({"text": tf.constant(TEXTS)})["pooled"], expected, atol=1e-6)
    assert embedding.hidden_dim == 16 and len(embedding.trainable_variables) > 20


def test_packing_is_that_of_tensorflow_text():
    import tensorflow_text

    rng = np.random.default_rng(0)
    drawn = [[[7] * rng.integers(0, 12) for _ in range(60)] for _ in range(2)]
    segments = [tf.ragged.constant(rows, tf.int32, ragged_rank=1) for rows in drawn]
    packer = BertPacker(wordpiece())
    for seq_len in (4, 9, 14, 40):
        packed = packer(segments, seq_len)
        trimmed = tensorflow_text.RoundRobinTrimmer(seq_len - 3).trim(segments)
        ids, types = tensorflow_text.combine_segments(trimmed, 2, 3)
        expected, mask = tensorflow_text.pad_model_inputs(ids, seq_len, pad_value=0)
        np.testing.assert_array_equal(packed["input_word_ids"], expected)
        np.testing.assert_array_equal(packed["input_mask"], mask)
        types, _ = tensorflow_text.pad_model_inputs(types, seq_len, pad_value=0)
        np.testing.assert_array_equal(packed["input_type_ids"], types)


def test_packing_takes_words_and_other_frames(folder):
    preprocessor = HubPreprocessor(str(folder / "preprocess"))
    words = tf.ragged.constant([[[4, 5], [6]], [[7]]], tf.int32)
    flat = tf.ragged.constant([[4, 5, 6], [7]], tf.int32)
    grouped, plain = preprocessor.pack([words], seq_len=6), preprocessor.pack([flat], seq_len=6)
    for name in plain:
        np.testing.assert_array_equal(grouped[name], plain[name])
    assert plain["token_ids"].numpy().tolist() == [[2, 4, 5, 6, 3, 0], [2, 7, 3, 0, 0, 0]]
    roberta = BertPacker(wordpiece(Framing(prefix=(2,), separator=(3, 3), suffix=(3,))), num_token_types=1)
    packed = roberta([flat, flat], 9)
    assert packed["input_word_ids"][1].numpy().tolist() == [2, 7, 3, 3, 7, 3, 0, 0, 0]
    assert not np.any(packed["input_type_ids"])


WITHOUT_TFLLM = """
import json, sys
import tensorflow as tf, tensorflow_hub as hub, tensorflow_text

folder, texts = sys.argv[1], json.loads(sys.argv[2])
preprocess, encoder = hub.load(folder + "/preprocess"), hub.load(folder + "/encoder")
embedding = hub.load(folder + "/text_embedding")
inputs = preprocess(tf.constant(texts))
outputs = encoder(inputs)
assert {"sequence_output", "pooled_output", "default", "encoder_outputs"} == set(outputs)
assert len(outputs["encoder_outputs"]) == 2
before = outputs["default"].numpy().tolist()
pair = preprocess.bert_pack_inputs([preprocess.tokenize(tf.constant(texts))] * 2, seq_length=7)
assert pair["input_word_ids"].shape[1] == 7
with tf.GradientTape() as tape:
    loss = tf.reduce_sum(embedding(tf.constant(texts), training=True)[:, 0])
gradients = tape.gradient(loss, embedding.trainable_variables)
for variable, gradient in zip(embedding.trainable_variables, gradients):
    if gradient is not None:
        variable.assign_sub(0.1 * tf.convert_to_tensor(gradient))
after = embedding.signatures["serving_default"](tf.constant(texts))
assert "tfllm" not in sys.modules
print(json.dumps({"before": before, "loss": float(loss), "after": list(after.values())[0].numpy().tolist()}))
"""


@pytest.mark.slow
def test_it_is_loaded_and_trained_without_tfllm(folder):
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_TFLLM, str(folder), json.dumps(TEXTS)],
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout.splitlines()[-1])
    ours = HubTextEmbedding(handle=str(folder / "text_embedding"))({"text": tf.constant(TEXTS)})["pooled"]
    np.testing.assert_allclose(found["before"], ours, atol=1e-6)
    assert np.sum(found["after"], axis=0)[0] < found["loss"] - 1e-3


@pytest.mark.slow
def test_an_encoder_without_types_or_pooler(tmp_path):
    model = small_encoder(num_token_types=0)
    path = export_hub_encoder(model, wordpiece(), tmp_path / "plain", seq_len=6)
    loaded, preprocessor = HubEncoder(handle=str(path / "encoder")), HubPreprocessor(str(path / "preprocess"))
    tokens = preprocessor.tokenize(tf.constant(TEXTS))
    rows = preprocessor.pack([tokens, tokens])
    states = model({k: rows[k] for k in ("token_ids", "padding_mask")})["hidden_states"]
    np.testing.assert_allclose(loaded(rows)["hidden_states"], states, atol=2e-6)
    np.testing.assert_allclose(loaded(rows)["pooled"], mean_pool(states, rows["padding_mask"]), atol=2e-6)
    assert not np.any(rows["token_type_ids"])


def test_what_does_not_fit_is_refused_and_nothing_is_left(model, folder, tmp_path):
    for arguments, words in (
        ({"pooling": "max"}, "pooling='max' is not known"),
        ({"seq_len": 17}, "seq_len=17 must be above 3"),
        ({"seq_len": 3}, "seq_len=3 must be above 3"),
    ):
        with pytest.raises(ExportError, match=words):
            export_hub_encoder(model, wordpiece(), tmp_path / "new" / "model", **{"seq_len": 8, **arguments})
    with pytest.raises(ExportError, match="needs a model with a pooler"):
        export_hub_encoder(small_encoder(), wordpiece(), tmp_path / "new", seq_len=8, pooling="pooler")
    with pytest.raises(ExportError, match="is not an empty folder"):
        export_hub_encoder(model, wordpiece(), folder, seq_len=8)
    assert list(tmp_path.iterdir()) == []


def test_the_wrong_interface_is_named(folder):
    with pytest.raises(ModelError, match=r"is no encoder: it is called with .*tf.string"):
        HubEncoder(handle=str(folder / "text_embedding"))
    with pytest.raises(ModelError, match=r"is no text embedding: it is called with .*input_word_ids"):
        HubTextEmbedding(handle=str(folder / "encoder"))
    with pytest.raises(ModelError, match="is no preprocessor"):
        HubPreprocessor(str(folder / "encoder"))

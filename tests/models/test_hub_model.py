"""SavedModels as others save them: what is read of them, and what is said of those that do not fit."""

import numpy as np
import pytest
import tensorflow as tf

from tfllm.models.errors import ModelError
from tfllm.models.hub_encoder import HubEncoder
from tfllm.models.hub_text_embedding import HubTextEmbedding

ROWS = {
    name: tf.TensorSpec([None, None], tf.int32) for name in ("input_word_ids", "input_mask", "input_type_ids")
}


def garden_encoder(width=4):
    """As TensorFlow's Model Garden saves them: names of Keras 2, `mask`, and no `default` alone."""
    module = tf.train.Checkpoint()
    names = (
        "word_embeddings/embeddings",
        "transformer/layer_0/output/kernel",
        "pooler/kernel",
        "pooler/kernel",
    )
    rng = np.random.default_rng(0)
    shapes = ([9, width], *([[width, width]] * 3))
    variables = [
        tf.Variable(rng.normal(size=s), dtype=tf.float32, name=n) for n, s in zip(names, shapes, strict=True)
    ]
    table, kernel, first, second = variables

    def call(inputs, training=None, mask=None):
        x = tf.gather(table, inputs["input_word_ids"]) * (2.0 if training else 1.0)
        states = tf.einsum("BTD,DE->BTE", x, kernel) * tf.cast(inputs["input_mask"], tf.float32)[..., None]
        pooled = tf.tanh(states[:, 0] @ first @ second)
        return {"sequence_output": states, "pooled_output": pooled, "default": pooled}

    module.__call__ = tf.function(call, autograph=False)
    for training in (False, True):
        module.__call__.get_concrete_function(ROWS, training=training, mask=None)
    module.step = tf.Variable(0, trainable=False, name="step", dtype=tf.int64)
    module.variables, module.trainable_variables = [*variables, module.step], variables
    penalty = tf.function(lambda: 0.5 * tf.reduce_sum(kernel**2), input_signature=[])
    module.regularization_losses = [penalty]
    return module


@pytest.fixture(scope="module")
def garden(tmp_path_factory):
    path = tmp_path_factory.mktemp("garden")
    tf.saved_model.save(garden_encoder(), str(path))
    return HubEncoder(handle=str(path))


def test_paths_are_unique_and_blocks_are_found(garden):
    assert [(v.path, v.dtype, v.trainable) for v in garden.variables] == [
        ("encoder/word_embeddings/embeddings", "float32", True),
        ("encoder/transformer/block_00/output/kernel", "float32", True),
        ("encoder/pooler/kernel", "float32", True),
        ("encoder/pooler/kernel_1", "float32", True),
        ("encoder/step", "int64", False),
    ]


def test_masks_training_and_penalties_arrive(garden):
    token_ids = tf.constant([[1, 2], [3, 4]])
    plain = garden({"token_ids": token_ids})["hidden_states"]
    np.testing.assert_allclose(garden({"token_ids": token_ids}, training=True)["hidden_states"], 2 * plain)
    (penalty,) = garden.losses
    np.testing.assert_allclose(penalty, 0.5 * np.sum(garden.variables[1].numpy() ** 2), rtol=1e-6)
    masked = garden({"token_ids": token_ids, "padding_mask": tf.constant([[True, False]] * 2)})
    np.testing.assert_array_equal(masked["hidden_states"][:, 1], np.zeros([2, 4]))


def test_an_assigned_variable_is_the_saved_model_s_own(garden):
    token_ids, kernel = tf.constant([[5]]), garden.variables[1]
    before, old = garden({"token_ids": token_ids})["hidden_states"], kernel.numpy()
    kernel.assign(3 * old)
    np.testing.assert_allclose(garden({"token_ids": token_ids})["hidden_states"], 3 * before, rtol=1e-5)
    kernel.assign(old)


@pytest.mark.parametrize("name", ["segment_ids", "positions"])
def test_features_it_cannot_honour_are_refused(garden, name):
    row = tf.ones([1, 3], tf.int32)
    with pytest.raises(ValueError, match=f"takes no {name}"):
        garden({"token_ids": row, name: row})


def test_a_mirrored_encoder_is_trained_on_both_replicas(garden):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        mirrored = HubEncoder(handle=garden.handle)
    token_ids = tf.constant([[1, 2]])

    @tf.function
    def gradients():
        def replica():
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(mirrored({"token_ids": token_ids})["hidden_states"] ** 2)
            return tape.gradient(loss, [v.value for v in mirrored.trainable_variables[:2]])[1]

        return strategy.experimental_local_results(strategy.run(replica))

    one, other = gradients()
    np.testing.assert_array_equal(one, other)
    assert np.abs(one).max() > 0


def test_a_text_embedding_may_return_a_plain_tensor(tmp_path):
    module = tf.train.Checkpoint(table=tf.Variable(np.arange(8.0), dtype=tf.float32, name="table"))

    def call(texts):
        rows = tf.strings.to_hash_bucket_fast(texts, 4)
        return tf.gather(tf.reshape(tf.convert_to_tensor(module.table), [4, 2]), rows)

    module.__call__ = tf.function(call, input_signature=[tf.TensorSpec([None], tf.string)])
    module.variables = module.trainable_variables = [module.table]
    tf.saved_model.save(module, str(tmp_path))
    embedding = HubTextEmbedding(handle=str(tmp_path))
    texts = tf.constant(["one", "two", "three"])
    with tf.GradientTape() as tape:
        pooled = embedding({"text": texts}, training=True)["pooled"]
    assert embedding.hidden_dim == 2
    np.testing.assert_array_equal(pooled, module.__call__(texts))
    (gradient,) = tape.gradient(pooled, [v.value for v in embedding.trainable_variables])
    assert float(tf.reduce_sum(gradient)) == 6.0


def test_what_is_not_there_or_no_saved_model(tmp_path):
    with pytest.raises(ModelError, match=r"is no SavedModel .*does not exist.*; give the folder"):
        HubEncoder(handle=str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match=r"is no SavedModel .*saved_model\.pb"):
        HubEncoder(handle=str(tmp_path))
    (tmp_path / "saved_model.pb").write_bytes(b"no protobuf")
    with pytest.raises(ModelError, match="is no SavedModel"):
        HubEncoder(handle=str(tmp_path))


def test_without_a_network_the_way_out_is_named(monkeypatch):
    import tensorflow_hub

    def unreachable(handle):
        raise OSError("<urlopen error [Errno -2] Name or service not known>")

    monkeypatch.setattr(tensorflow_hub, "load", unreachable)
    with pytest.raises(ModelError, match=r"cannot be downloaded .*without a network, download and unpack"):
        HubEncoder(handle="https://tfhub.dev/google/some-encoder/1")


def test_a_signature_alone_is_no_interface(tmp_path):
    module = tf.Module()
    module.v = tf.Variable(1.0)
    module.serve = tf.function(lambda x: {"y": x * module.v}, input_signature=[tf.TensorSpec([None])])
    tf.saved_model.save(module, str(tmp_path), signatures={"score": module.serve})
    with pytest.raises(
        ModelError, match="it cannot be called, and has the signatures score; an encoder takes"
    ):
        HubEncoder(handle=str(tmp_path))

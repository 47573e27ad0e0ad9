import numpy as np
import pytest
import tensorflow as tf

from tfllm.generation.generate import Generator
from tfllm.models.errors import ModelError
from tfllm.models.keras_nlp_model import KerasNlpModel

SMALL = {"vocabulary_size": 23, "num_layers": 2, "hidden_dim": 16, "intermediate_dim": 32}
GROUPED = {**SMALL, "num_query_heads": 4, "num_key_value_heads": 2}
CAUSAL = {
    "GPT2Backbone": {**SMALL, "num_heads": 2, "max_sequence_length": 32, "dropout": 0.3},
    "LlamaBackbone": {**GROUPED, "tie_word_embeddings": False},
    "GemmaBackbone": {**GROUPED, "head_dim": 8, "final_logit_soft_cap": 3.0},
}
MASKED = {
    "BertBackbone": {**SMALL, "num_heads": 2, "max_sequence_length": 32},
    "RobertaBackbone": {**SMALL, "num_heads": 2, "max_sequence_length": 32},
}


def loud(model):
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(variable.numpy() + 0.3 * rng.normal(size=variable.shape))
    return model


@pytest.fixture(scope="module", params=CAUSAL)
def causal(request):
    return loud(KerasNlpModel(backbone=request.param, arguments=CAUSAL[request.param], max_seq_len=32))


ROWS = {
    "token_ids": tf.constant([[1, 2, 3, 4, 5, 0], [6, 7, 8, 0, 0, 0]]),
    "padding_mask": tf.sequence_mask([5, 3], 6),
}


def test_logits_are_those_of_keras_hub(causal):
    outputs = causal(ROWS)
    expected = causal.task(ROWS)
    np.testing.assert_allclose(outputs["logits"], expected, atol=1e-5)
    np.testing.assert_array_equal(causal.logits(outputs["hidden_states"]), outputs["logits"])
    assert (causal.vocab_size, causal.num_layers, causal.hidden_dim, causal.max_seq_len) == (23, 2, 16, 32)
    assert outputs["hidden_states"].shape == (2, 6, 16)


def test_greedy_text_is_that_of_keras_hub(causal):
    """Prompts of several lengths; KerasHub's own loop, with its cache, is the reference."""
    prompts = [[1, 2, 3, 4, 5], [6, 7], [8]]
    ours = Generator(causal, stop_ids=[], pad_id=0, jit_compile=False)(
        prompts, max_new_tokens=5, temperature=0.0
    )
    causal.task.compile(sampler="greedy")
    for prompt, tokens in zip(prompts, ours, strict=True):
        width = len(prompt) + 5
        inputs = {
            "token_ids": np.array([prompt + [0] * 5], np.int32),
            "padding_mask": np.arange(width)[None, :] < len(prompt),
        }
        theirs = causal.task.generate_step(inputs, stop_token_ids=None)["token_ids"]
        assert np.asarray(theirs)[0, len(prompt) :].tolist() == tokens


def test_features_it_cannot_honour_are_refused(causal):
    rows = tf.zeros([2, 6], tf.int32)
    with pytest.raises(ValueError, match="counts positions itself"):
        causal({**ROWS, "positions": rows})
    with pytest.raises(ValueError, match="leave token_type_ids out"):
        causal({**ROWS, "token_type_ids": rows})
    with pytest.raises(tf.errors.InvalidArgumentError, match="segment_ids of several documents"):
        causal({**ROWS, "segment_ids": rows + 2})
    one = {"token_ids": ROWS["token_ids"], "segment_ids": tf.cast(ROWS["padding_mask"], tf.int32)}
    np.testing.assert_allclose(causal(one)["logits"], causal(ROWS)["logits"], atol=1e-6)


@pytest.mark.parametrize("backbone", MASKED)
def test_masked_logits_stand_at_every_place(backbone):
    model = loud(KerasNlpModel(backbone=backbone, arguments=MASKED[backbone]))
    types = {"token_type_ids": tf.constant([[0, 0, 1, 1, 1, 0]] * 2)} if backbone == "BertBackbone" else {}
    outputs = model({**ROWS, **types})
    segments = {"segment_ids": types["token_type_ids"]} if types else {}
    places = tf.constant([[1, 4], [0, 2]])
    expected = model.task({**ROWS, **segments, "mask_positions": places})
    np.testing.assert_allclose(tf.gather(outputs["logits"], places, batch_dims=1), expected, atol=1e-5)
    assert ("pooled" in outputs) == bool(types)
    with pytest.raises(ModelError, match="cannot continue a text"):
        model.decoder_prompt(ROWS["token_ids"], ROWS["padding_mask"])


def test_dropout_follows_from_the_seeds():
    model = KerasNlpModel(backbone="GPT2Backbone", arguments=CAUSAL["GPT2Backbone"])

    @tf.function
    def states(seeds, training):
        rows = ROWS if seeds is None else {**ROWS, "row_seeds": seeds}
        return model(rows, training=training)["hidden_states"]

    one, again, other = (states(tf.constant(seeds), True) for seeds in ([3, 4], [3, 4], [5, 6]))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.1
    np.testing.assert_allclose(states(None, True), states(None, False), atol=1e-6)
    assert not any("seed" in variable.path for variable in model.variables)


def test_a_preset_folder(tmp_path):
    model = loud(KerasNlpModel(backbone="GPT2Backbone", arguments=CAUSAL["GPT2Backbone"]))
    model.backbone.save_to_preset(str(tmp_path / "backbone"))
    loaded = KerasNlpModel(preset=str(tmp_path / "backbone"))
    np.testing.assert_allclose(loaded(ROWS)["logits"], model(ROWS)["logits"], atol=1e-6)
    assert [v.path for v in loaded.variables] == [v.path for v in model.variables]
    bert = loud(KerasNlpModel(backbone="BertBackbone", arguments=MASKED["BertBackbone"]))
    bert.task.save_to_preset(str(tmp_path / "task"))
    loaded = KerasNlpModel(preset=str(tmp_path / "task"))
    np.testing.assert_allclose(loaded(ROWS)["logits"], bert(ROWS)["logits"], atol=1e-6)


def test_mistakes_have_one_message(tmp_path):
    for arguments, words in (
        ({}, "give one of both"),
        ({"backbone": "GPT3Backbone"}, "is not one of KerasHub's; there are .*GPT2Backbone"),
        ({"backbone": "ResNetBackbone"}, "has neither a causal nor a masked language model"),
        ({"backbone": "GPT2Backbone", "arguments": {"layers": 2}}, "cannot be made with {'layers': 2}"),
        ({"preset": str(tmp_path / "nowhere")}, "cannot be loaded .*; without a network"),
    ):
        with pytest.raises(ModelError, match=words):
            KerasNlpModel(**arguments)

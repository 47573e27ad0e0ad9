"""Files of encoders as people have them: old names, copies, heads that no class names; and what is refused."""

import json

import numpy as np
import pytest

from tests.convert.golden import config_of, tensors_of, write_checkpoint
from tfllm.convert.checkpoint import load_model, read_checkpoint
from tfllm.convert.errors import ConvertError
from tfllm.convert.huggingface import save_model
from tfllm.models.decoder import Decoder
from tfllm.models.encoder import Encoder

SMALL = {"vocab_size": 19, "num_layers": 2, "hidden_dim": 16, "num_heads": 4, "max_seq_len": 32}


def config(name, *without, **changes):
    mapping = {**config_of(name), **changes}
    return {key: value for key, value in mapping.items() if key not in without}


def load(folder, name, *, config=None, tensors=None):
    checkpoint = read_checkpoint(write_checkpoint(folder, name, config=config, tensors=tensors))
    return checkpoint, load_model(checkpoint)


def assert_same_variables(one, other):
    assert len(one.variables) == len(other.variables)
    for mine, theirs in zip(one.variables, other.variables, strict=True):
        assert mine.path == theirs.path
        np.testing.assert_array_equal(mine, theirs)


def relative(name):
    return config(name, position_embedding_type="relative_key")


CONFIGS = {
    "a class": (
        config("bert_sentences", architectures=["BertForMultipleChoice"]),
        "architectures=['BertForMultipleChoice'] is not implemented in tfllm; BertModel, BertForPreTraining, ",
    ),
    "a class of another family": (
        config("distilbert", architectures=["BertForMaskedLM"]),
        "DistilBertModel, DistilBertForMaskedLM, ",
    ),
    "a head of another family": (
        config("roberta", architectures=["RobertaForPreTraining"]),
        "architectures=['RobertaForPreTraining'] is not implemented",
    ),
    "relative positions": (relative("bert"), "position_embedding_type='relative_key' is not implemented"),
    "the same in RoBERTa": (relative("roberta"), "only 'absolute' is"),
    "a decoder": (config("bert_masked_lm", is_decoder=True), "is_decoder=True is not implemented"),
    "cross-attention": (config("bert", add_cross_attention=True), "add_cross_attention=True is not"),
    "an activation": (
        config("bert", hidden_act="mish"),
        "hidden_act='mish' is not implemented in tfllm; gelu, ",
    ),
    "a width of heads": (config("bert", num_attention_heads=5), "a width of 24 must be divisible by 5"),
    "no room for positions": (config("roberta", pad_token_id=32), "pad_token_id=32 is not implemented"),
    "padding below zero": (
        config("roberta", pad_token_id=-1),
        "it must leave some of max_position_embeddings=33",
    ),
    "labels in words": (config("bert_tokens", id2label={"one": "a"}), "its keys must be 0, 1, 2 and so on"),
    "no labels": (config("bert_tokens", id2label={}), "its keys must be 0, 1, 2 and so on"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_that_cannot_be_used(name, tmp_path):
    mapping, words = CONFIGS[name]
    case = "bert" if mapping["model_type"] == "bert" else mapping["model_type"]
    write_checkpoint(tmp_path / "c", case, config=mapping)
    with pytest.raises(ConvertError) as caught:
        read_checkpoint(tmp_path / "c")
    assert words in str(caught.value)
    assert str(tmp_path / "c" / "config.json") in str(caught.value)


def changed(name, *without, **more):
    return {key: value for key, value in {**tensors_of(name), **more}.items() if key not in without}


def other(name, key):
    return tensors_of(name)[key] + 1


WEIGHTS = {
    "a head that is not there": (
        "bert_masked_lm",
        changed("bert_masked_lm", "cls.predictions.transform.dense.weight"),
        "missing: cls.predictions.transform.dense.weight",
    ),
    "a pooler that is not there": (
        "bert_sentences",
        changed("bert_sentences", "bert.pooler.dense.weight", "bert.pooler.dense.bias"),
        "missing: bert.pooler.dense.weight, bert.pooler.dense.bias",
    ),
    "two heads": (
        "bert_sentences",
        changed("bert_sentences", **{"cls.predictions.bias": np.zeros([61], np.float32)}),
        "not known: cls.predictions.bias",
    ),
    "classes that nobody counted": (
        "bert_tokens",
        changed("bert_tokens", **{"classifier.weight": np.zeros([4, 24], np.float32)}),
        r"classifier.weight has \[4, 24\] and should have \[3, 24\]",
    ),
    "an output layer that is not the embedding": (
        "bert_masked_lm",
        changed(
            "bert_masked_lm",
            **{
                "cls.predictions.decoder.weight": other(
                    "bert_masked_lm", "bert.embeddings.word_embeddings.weight"
                )
            },
        ),
        "not known: cls.predictions.decoder.weight",
    ),
    "a bias that is not the other": (
        "roberta",
        changed("roberta", **{"lm_head.decoder.bias": other("roberta", "lm_head.bias")}),
        "not known: lm_head.decoder.bias",
    ),
    "a longer table": (
        "roberta",
        changed(
            "roberta", **{"roberta.embeddings.position_embeddings.weight": np.zeros([34, 24], np.float32)}
        ),
        r"has \[34, 24\] and should have \[33, 24\]",
    ),
}


@pytest.mark.parametrize("what", WEIGHTS)
def test_weights_that_cannot_be_read(what, tmp_path):
    name, tensors, words = WEIGHTS[what]
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "c", name, tensors=tensors))
    with pytest.raises(ConvertError, match=words):
        load_model(checkpoint)


def test_missing_weights_are_said_although_heads_are_looked_for(tmp_path):
    folder = write_checkpoint(tmp_path / "c", "bert")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConvertError, match=r"holds neither model\.safetensors nor"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    "name", ["bert_masked_lm", "roberta", "bert_sentences", "distilbert_sentences", "bert_tokens"]
)
def test_heads_follow_from_the_tensors(name, tmp_path):
    checkpoint, model = load(tmp_path / "a", name)
    quiet, same = load(tmp_path / "b", name, config=config(name, "architectures"))
    assert quiet.arguments == checkpoint.arguments
    assert_same_variables(model, same)


def test_a_class_may_say_less_than_there_is(tmp_path):
    """As in the first BERT: `BertForMaskedLM`, with a pooler and a next-sentence head beside."""
    name = "bert_pretraining_untied"
    checkpoint, model = load(tmp_path / "a", name)
    for number, architecture in enumerate(("BertForMaskedLM", "BertModel")):
        less, same = load(tmp_path / str(number), name, config=config(name, architectures=[architecture]))
        assert less.arguments == checkpoint.arguments
        assert_same_variables(model, same)


def test_old_names_copies_and_buffers_are_read(tmp_path):
    name = "bert_masked_lm"
    old = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for key, value in tensors_of(name).items()
    }
    assert sum(key.endswith("gamma") for key in old) == 6
    old["cls.predictions.decoder.weight"] = old["bert.embeddings.word_embeddings.weight"].copy()
    old["cls.predictions.decoder.bias"] = old["cls.predictions.bias"].copy()
    old["bert.embeddings.position_ids"] = np.arange(33)[None]
    checkpoint, model = load(tmp_path / "old", name, tensors=old)
    assert not checkpoint.notes
    assert_same_variables(model, load(tmp_path / "new", name)[1])
    from tfllm.convert.summary import summary

    assert dict(dict(summary(checkpoint))["PARAMETERS"])["total"].strip() == f"{model.count_params():,}"


def test_an_output_layer_of_its_own_may_have_its_bias_under_either_name(tmp_path):
    """transformers 4 keeps one bias by the first name, 5 reads the second and keeps both."""
    for name, head in (("bert_pretraining_untied", "cls.predictions"), ("roberta_untied", "lm_head")):
        tensors = tensors_of(name)
        both = load(tmp_path / name / "both", name)[1]
        tensors[f"{head}.bias"] = tensors.pop(f"{head}.decoder.bias")
        assert_same_variables(both, load(tmp_path / name / "one", name, tensors=tensors)[1])


def test_a_pooler_that_the_classifier_does_not_read_is_said(tmp_path):
    extra = {
        "roberta.pooler.dense.weight": np.zeros([24, 24], np.float32),
        "roberta.pooler.dense.bias": np.zeros([24], np.float32),
    }
    checkpoint, model = load(
        tmp_path / "a", "roberta_sentences", tensors=changed("roberta_sentences", **extra)
    )
    assert checkpoint.notes == (
        "roberta.pooler.dense.weight is not read by the classifier and was left aside",
    )
    assert_same_variables(model, load(tmp_path / "b", "roberta_sentences")[1])


def test_what_concerns_training_is_said(tmp_path):
    changes = {"dropout": 0.1, "sinusoidal_pos_embds": True, "tie_weights_": True, "sparse": 3}
    checkpoint, _ = load(tmp_path / "a", "distilbert", config=config("distilbert", **changes))
    assert checkpoint.notes == (
        "sinusoidal_pos_embds=True concerns training; positions are weights here, and are trained",
        "dropout=0.1 concerns training; set model.dropout where you want it",
        "sparse=3 is not known and was left aside",
    )


def test_labels_are_kept(tmp_path):
    checkpoint, model = load(tmp_path / "a", "roberta_sentences")
    assert model.class_names == ("bad", "middling", "good")
    save_model(tmp_path / "back", model, checkpoint.arguments)
    written = json.loads((tmp_path / "back" / "config.json").read_text())
    assert written["id2label"] == {"0": "bad", "1": "middling", "2": "good"}
    assert written["label2id"] == {"bad": 0, "middling": 1, "good": 2}
    assert "problem_type" not in written and not model.multi_label
    several = config("roberta_sentences", problem_type="multi_label_classification")
    checkpoint, model = load(tmp_path / "several", "roberta_sentences", config=several)
    assert model.multi_label
    save_model(tmp_path / "several back", model, checkpoint.arguments)
    written = json.loads((tmp_path / "several back" / "config.json").read_text())
    assert written["problem_type"] == "multi_label_classification"
    unnamed = read_checkpoint(
        write_checkpoint(
            tmp_path / "b", "bert_tokens", config=config("bert_tokens", "id2label", num_labels=3)
        )
    )
    assert (unnamed.arguments["num_classes"], unnamed.arguments["class_names"]) == (3, None)


@pytest.mark.parametrize(
    ("changes", "family", "architecture"),
    [
        ({}, "bert", "BertModel"),
        ({"head": "masked_lm"}, "bert", "BertForMaskedLM"),
        ({"pooler": "tanh", "next_sentence_head": True}, "bert", "BertForNextSentencePrediction"),
        ({"head": "span", "num_token_types": 0}, "distilbert", "DistilBertForQuestionAnswering"),
        ({"head": "masked_lm", "position_offset": 2}, "roberta", "RobertaForMaskedLM"),
        (
            {"head": "token_classification", "num_classes": 5, "position_offset": 4, "norm_epsilon": 1e-5},
            "roberta",
            "RobertaForTokenClassification",
        ),
    ],
)
def test_a_model_of_our_own_finds_its_family(changes, family, architecture, tmp_path):
    model = Encoder(**SMALL, **changes)
    model.build()
    save_model(tmp_path / "c", model, {**SMALL, **changes})
    checkpoint = read_checkpoint(tmp_path / "c")
    assert checkpoint.family.model_type == family
    assert json.loads((tmp_path / "c" / "config.json").read_text())["architectures"] == [architecture]
    assert_same_variables(model, load_model(checkpoint))


def test_models_that_no_family_can_say(tmp_path):
    odd = {**SMALL, "norm_placement": "pre"}
    model = Encoder(**odd)
    model.build()
    with pytest.raises(
        ConvertError, match="norm_placement='pre' cannot be said in a checkpoint of type bert"
    ):
        save_model(tmp_path / "c", model, odd)
    decoder = Decoder(**SMALL)
    decoder.build()
    with pytest.raises(
        ConvertError,
        match="model_type='bert' is for a model of class Encoder, and this is of class Decoder; use gemma2, ",
    ):
        save_model(tmp_path / "c", decoder, SMALL, model_type="bert")
    with pytest.raises(
        ConvertError, match="next_sentence_head=True cannot be said in a checkpoint of type roberta"
    ):
        changes = {"pooler": "tanh", "next_sentence_head": True, "position_offset": 2}
        model = Encoder(**SMALL, **changes)
        save_model(tmp_path / "c", model, {**SMALL, **changes}, model_type="roberta")


@pytest.mark.parametrize(
    "changes",
    [
        {"positions": "rotary"},
        {"positions": "relative"},
        {"num_kv_heads": 1},
        {"sliding_window": 3},
        {"sliding_window": 3, "sliding_layers": [0]},
        {"head_dim": 6},
    ],
    ids=str,
)
def test_what_a_family_cannot_say_is_refused_by_name(changes, tmp_path):
    """A file that leaves it out would load as another model, in silence."""
    model = Encoder(**SMALL, **changes)
    model.build()
    name, value = next(iter(changes.items()))
    with pytest.raises(ConvertError, match=f"{name}={value!r} cannot be said in a checkpoint of type"):
        save_model(tmp_path / "c", model, {**SMALL, **changes})
    assert not (tmp_path / "c" / "model.safetensors").exists()

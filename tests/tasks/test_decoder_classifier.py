"""Classes of texts from decoders: read off the last token of each text, wherever padding stands."""

import json

import numpy as np
import pytest
import tensorflow as tf

import tfllm
from tests.tasks.test_classification import NAMES, T, batch_of, rows_of, write_reviews
from tests.tasks.test_contrastive import WORDS
from tests.tiny import randomized
from tests.training.toy import DIVISIONS, assert_same_training, trained_on_rows
from tfllm.commands.main import main
from tfllm.config import ConfigError, config_from_mapping
from tfllm.export.errors import ExportError
from tfllm.generation.errors import GenerationError
from tfllm.generation.model import generates
from tfllm.models.decoder import Decoder
from tfllm.tasks.classification import Classification
from tfllm.tokenizers import ByteBPETokenizer

KINDS = {
    "rotary": {"num_kv_heads": 1, "sliding_window": 5},
    "learned": {"positions": "learned", "norm": "layer_norm", "activation": "gelu", "use_bias": True},
}


def model_of(vocab_size, seed=3, **settings):
    given = {"num_layers": 2, "hidden_dim": 16, "num_heads": 2, "max_seq_len": T, "num_classes": 3}
    return randomized(
        Decoder(vocab_size=vocab_size, head="sequence_classification", **{**given, **settings}), seed=seed
    )


@pytest.fixture(scope="module")
def tokenizer():
    return ByteBPETokenizer.train([" ".join(WORDS)] * 4, vocab_size=300)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", ["last", "mean", "first"])
def test_padding_makes_no_difference_left_right_or_wider(kind, pooling):
    """Also of a text that ends in the token that fills rows."""
    model = model_of(60, pooling=pooling, max_seq_len=24, **KINDS[kind])
    texts = [[5, 9, 7, 0], [8, 8, 0, 0, 11, 12, 3], [4]]
    alone = [model({"token_ids": tf.constant([ids])})["logits"].numpy()[0] for ids in texts]
    assert np.abs(alone[0] - alone[1]).max() > 1e-3
    for width in (7, 12, 24):
        for left in (True, False):
            ids, mask = np.zeros([3, width], np.int32), np.zeros([3, width], bool)
            for row, text in enumerate(texts):
                place = slice(width - len(text), None) if left else slice(0, len(text))
                ids[row, place], mask[row, place] = text, True
            logits = model({"token_ids": tf.constant(ids), "padding_mask": tf.constant(mask)})["logits"]
            np.testing.assert_allclose(logits, alone, rtol=5e-6, atol=2e-6)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_packed_logits_and_gradients_are_those_of_each_text_alone(tokenizer, tmp_path, pooling):
    task = Classification(class_names=NAMES, token_types=False)
    stores = {packing: rows_of(task, tokenizer, tmp_path, packing) for packing in (True, False)}
    assert stores[True].num_rows < stores[False].num_rows
    model = model_of(tokenizer.vocab_size, pooling=pooling)
    logits, grads = {}, {}
    for packing, store in stores.items():
        features = batch_of(task, store)
        with tf.GradientTape() as tape:
            outputs = model(features)
            loss = task.loss(model, features, outputs)["loss"]
        grads[packing] = [
            tf.convert_to_tensor(g).numpy() for g in tape.gradient(loss, model.trainable_variables)
        ]
        numbers = features["example_ids"].numpy()
        order = np.argsort(numbers[numbers >= 0])
        logits[packing] = outputs["logits"].numpy()[numbers >= 0][order]
    np.testing.assert_allclose(logits[True], logits[False], atol=2e-6)
    for one, other in zip(grads[True], grads[False], strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("division", DIVISIONS)
def test_replicas_and_microbatches_equal_one_device(tokenizer, tmp_path, division):
    task = Classification(class_names=NAMES, token_types=False, class_weights={"bad": 3.0})
    store = rows_of(task, tokenizer, tmp_path)

    def make(dropout):
        return model_of(tokenizer.vocab_size, dropout=dropout)

    one, other = (
        trained_on_rows(task, store, make, learning_rate=0.1, **each) for each in ({}, DIVISIONS[division])
    )
    assert_same_training(one, other, atol=2e-6)


MODEL = "{type: decoder, num_layers: 1, hidden_dim: 16, num_heads: 2}"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reviews")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_reviews(folder)
        words = [f"model={MODEL}", "tokenizer={type: byte_bpe, vocab_size: 300}", "data.seq_len=32"]
        words += ['task={type: classification, template: "Review: {text}\\nStars:"}', "training.steps=120"]
        assert main(["train", "reviews.yaml", *words]) == 0
    return folder / "runs/reviews"


def test_from_a_csv_to_a_served_classifier_that_reads_a_template(run):
    said = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    accuracy = [line["accuracy"] for line in said if line["split"] == "validation"]
    assert accuracy[-1] > 0.9 > accuracy[0]
    lm = tfllm.load(run, jit_compile=False)
    assert lm.tells == "classes" and not generates(lm.model)
    # The last is too long, and what the template ends with is read all the same.
    texts = ["bat con fine", "fon hust hill odd", "poor", "", "bat con hust " * 20 + "poor"]
    found = lm.classify(texts)
    assert [each["label"] for each in found[:3]] == ["10", "1", "9"]
    [exported] = (run / "export").iterdir()
    served = tf.saved_model.load(str(exported)).signatures["serving_default"]
    answers = served(text=tf.constant(texts))
    scores = [list(each["scores"].values()) for each in found]
    np.testing.assert_allclose(answers["scores"].numpy(), scores, atol=1e-5)
    dropped = answers["tokens_dropped"].numpy()
    assert dropped[:4].tolist() == [0, 0, 0, 0] and dropped[4] > 10
    with pytest.raises(GenerationError, match="nor what tells classes; take embed or classify"):
        lm.generate("bat")
    assert lm.embed(texts).shape == (5, 16)


def test_it_goes_to_transformers_and_back(run, tmp_path):
    lm = tfllm.load(run, jit_compile=False)
    lm.save(tmp_path / "there", to="huggingface")
    config = json.loads((tmp_path / "there/config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["id2label"] == {"0": "1", "1": "9", "2": "10"}
    assert config["pad_token_id"] == lm.tokenizer.pad_id
    assert not (tmp_path / "there/generation_config.json").exists()
    back = tfllm.load(tmp_path / "there", jit_compile=False)
    assert back.class_names == ("1", "9", "10") and back.tells == "classes"
    ids = tf.constant([[5, 9, 7]])
    np.testing.assert_array_equal(
        back.model({"token_ids": ids})["logits"], lm.model({"token_ids": ids})["logits"]
    )


@pytest.mark.parametrize("to", ["huggingface", "tfllm"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_language_model_is_the_start(tokenizer, tmp_path, monkeypatch, capfd, to, tied):
    sizes = {"num_layers": 1, "hidden_dim": 16, "num_heads": 2, "max_seq_len": 32, "tie_embeddings": tied}
    given = {"name": "given", "model": {"type": "decoder", **sizes}, "data": {"seq_len": 32}}
    given = config_from_mapping({**given, "generation": {"max_new_tokens": 8}}, for_training=False)
    decoder = randomized(Decoder(vocab_size=tokenizer.vocab_size, **sizes))
    tfllm.LanguageModel(decoder, tokenizer, given).save(tmp_path / "given", to=to)
    monkeypatch.chdir(tmp_path)
    write_reviews(tmp_path)
    words = ["tokenizer={type: pretrained}", "training.steps=1", "export.at_end=false", "data.packing=true"]
    source = f"model={{type: pretrained, source: {tmp_path / 'given'}}}"
    rate = "optimizer={learning_rate: 1.0e-12, schedule: constant, weight_decay: 0.0}"
    assert main(["train", "reviews.yaml", source, rate, *words]) == 0
    lm = tfllm.load(tmp_path / "runs/reviews", jit_compile=False)
    ids = {"token_ids": tf.constant([[5, 6, 7]])}
    np.testing.assert_allclose(
        lm.model(ids)["hidden_states"], decoder(ids)["hidden_states"], rtol=1e-5, atol=1e-6
    )
    assert lm.model(ids)["logits"].shape == (1, 3)
    # And a classifier is no start for what goes on with texts.
    (tmp_path / "a.txt").write_text("bat con " * 400)
    back = ["task=causal_lm", "data={train: {type: text_files, path: a.txt}, seq_len: 16}"]
    source = f"model={{type: pretrained, source: {tmp_path / 'runs/reviews'}}}"
    more = ["--run-dir", str(tmp_path / "back"), "training={steps: 1, global_batch_size: 2}"]
    more += ["generation={max_new_tokens: 4}"]
    assert main(["train", "reviews.yaml", *more, source, *back, *words[:1], *words[2:3]]) == 2
    assert (
        "model.head=sequence_classification is not trained by task.type=causal_lm" in capfd.readouterr().err
    )


TRAINED = {
    "relations": (
        {"type": "relation_extraction"},
        {},
        lambda lm: lm.relate("bat so con", (0, 3), (7, 10))["label"],
    ),
    "numbers": ({"type": "regression"}, {"label": "number"}, lambda lm: lm.regress("bat so con")),
    "several": (
        {"type": "classification", "multi_label": True, "label_separator": "+"},
        {"label": "labels"},
        lambda lm: sorted(lm.classify("bat so con")["scores"]),
    ),
    "pairs": (
        {"type": "classification", "pairs": True, "template": "{text} => {text_pair}"},
        {},
        lambda lm: lm.classify([["bat", "con"], ["con", "bat"]])[1]["label"],
    ),
}


@pytest.mark.parametrize("kind", TRAINED)
def test_a_decoder_learns_whatever_reads_a_vector(kind, tmp_path, monkeypatch, capfd):
    task, columns, told = TRAINED[kind]
    monkeypatch.chdir(tmp_path)
    rows = [
        {
            **{"text": "bat so con" if number % 2 else "con so bat", "head": [0, 3], "tail": [7, 10]},
            **{"label": "ab"[number % 2], "number": number % 2, "labels": ("a", "a+b")[number % 2]},
            "text_pair": f"on {number}",
        }
        for number in range(40)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    mapping = {
        "name": "m",
        "task": task,
        "tokenizer": {"type": "byte_bpe", "vocab_size": 280},
        "model": {"type": "decoder", "num_layers": 1, "hidden_dim": 16, "num_heads": 2},
        "data": {
            "train": {"type": "jsonl", "path": "rows.jsonl", **({"columns": columns} if columns else {})},
            "validation_fraction": 0.3,
            "split_by": "text_pair",
            "seq_len": 32,
            "num_workers": 1,
        },
        "optimizer": {"learning_rate": 0.02, "schedule": "constant"},
        "training": {"steps": 80, "global_batch_size": 8, "jit_compile": False, "log_every": 80},
    }
    (tmp_path / "m.yaml").write_text(json.dumps(mapping))
    assert main(["train", "m.yaml"]) == 0, capfd.readouterr().err
    losses = [
        line["loss"]
        for line in map(json.loads, (tmp_path / "runs/m/metrics.jsonl").read_text().splitlines())
        if line["split"] == "validation"
    ]
    assert losses[-1] < 0.7 * losses[0]
    found = told(tfllm.load("runs/m", jit_compile=False))
    expected = {"relations": "b", "several": ["a", "b"]}.get(kind)
    assert found == expected if expected else found is not None


def mapping_of(task, model, **more):
    data = {"train": {"type": "text_files", "path": "text.txt"}}
    return {"name": "m", "task": task, "model": model, "data": data, **more}


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        (
            mapping_of({"type": "classification"}, {"type": "keras_nlp", "backbone": "GPT2Backbone"}),
            "model.type=keras_nlp is not trained by task.type=classification, for it has no layer that tells labels",
        ),
        (
            mapping_of({"type": "token_classification"}, "decoder"),
            "model.type=decoder is not trained by task.type=token_classification, which needs an encoder",
        ),
        (
            mapping_of({"type": "causal_lm"}, {"type": "decoder", "pooling": "mean"}),
            "model.pooling=mean makes vectors of texts, and task.type=causal_lm reads none",
        ),
        (
            mapping_of({"type": "regression"}, "decoder", generation={"prompts": ["x"]}),
            "is for models that generate, and one of task.type=regression does not",
        ),
        (
            mapping_of({"type": "classification", "template": "Review: {review}"}, "decoder"),
            "task.template=Review: {review} must hold {text} once and no other place, and holds {review}",
        ),
        (
            mapping_of({"type": "regression", "pairs": True, "template": "{text_pair} {text}"}, "decoder"),
            "must hold {text} and then {text_pair} once each and no other place, and holds {text_pair}, {text}",
        ),
        (
            mapping_of(
                {"type": "classification", "pairs": True, "template": "{text}/{text_pair}"},
                "decoder",
                export={"at_end": True},
            ),
            "export.at_end=true is not for task.pairs with task.template",
        ),
        (
            mapping_of(
                {"type": "classification"},
                {"type": "decoder", "head": "sequence_classification"},
            ),
            "model.num_classes is required by model.head=sequence_classification",
        ),
    ],
)
def test_what_cannot_be_is_told_by_the_config(mapping, words):
    with pytest.raises(ConfigError) as caught:
        config_from_mapping(mapping)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"head": "masked_lm"}, "head='masked_lm' is not known; use causal_lm or sequence_classification"),
        ({"pooling": "max"}, "pooling='max' is not known"),
        ({"num_classes": None}, "needs num_classes"),
        ({"class_names": ["a"]}, "class_names has 1 names, and num_classes=3"),
        ({"head": "causal_lm"}, "num_classes=3 needs head='sequence_classification'"),
    ],
)
def test_arguments_that_cannot_be(settings, words):
    given = {"vocab_size": 9, "num_layers": 1, "hidden_dim": 8, "num_heads": 2, "max_seq_len": 8}
    with pytest.raises(ValueError, match=words):
        Decoder(**{**given, "head": "sequence_classification", "num_classes": 3, **settings})


def test_a_pair_in_a_template_is_not_exported(run, tmp_path):
    from tfllm.export.classifier import export_classifier

    lm = tfllm.load(run, jit_compile=False)
    with pytest.raises(ExportError, match="a pair of texts in a template is not exported"):
        export_classifier(lm.model, lm.tokenizer, tmp_path, pairs=True, around=("a", "b"))

"""The keys of tasks: what they make of rows."""

import functools
import json
import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from tests.promises.case import Case, hold
from tests.promises.runs import documents, mapping
from tests.tasks.test_contrastive import by_hand
from tfllm import experiment
from tfllm.config import config_from_mapping
from tfllm.data.pipeline import training_batches
from tfllm.tasks.span_qa import answer_of


class Fed:
    """The rows of a config, and what its task makes of them for the model."""

    def __init__(self, config):
        config = experiment.with_labels(config)
        prepared = experiment.prepare(config)
        self.tokenizer, store = prepared.tokenizer, prepared.train
        self.task = experiment.make_task(config, self.tokenizer)
        [batch] = training_batches(
            store,
            global_batch_size=64,
            seed=0,
            num_steps=1,
            transform=self.task.features,
            aligned=self.task.aligned,
        )
        [plain] = training_batches(store, global_batch_size=64, seed=0, num_steps=1, transform=dict)
        self.features = {name: x.numpy() for name, x in batch.items()}
        self.rows = {name: x.numpy() for name, x in plain.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    texts = documents(60)
    (folder / "text.txt").write_text("\n\n".join(texts))
    pairs = [f"{text[:30]},{text[30:60]},{text[60:]},{text}" for text in [*texts, *texts[:20]]]
    labels = [
        f"{text[:30]},{text[30:60]},{'abb'[i % 3]},{i / 4},{'b+' * (i % 3)}a" for i, text in enumerate(texts)
    ]
    (folder / "labels.csv").write_text("\n".join(["text,text_pair,label,score,tags", *labels]))
    large = "\n".join(["text,label", *(f"{text[:30].upper()},{'ab'[i % 2]}" for i, text in enumerate(texts))])
    (folder / "capitals.csv").write_text(large)
    tags = [{"tokens": text.split(), "tags": [i % 2 for i, _ in enumerate(text.split())]} for text in texts]
    (folder / "tags.jsonl").write_text("\n".join(map(json.dumps, tags)))
    named = [{**row, "tags": [("O", "B-X")[tag] for tag in row["tags"]]} for row in tags]
    (folder / "named.jsonl").write_text("\n".join(map(json.dumps, named)))
    related = [
        {"text": text, "head": [0, 3], "tail": [5, 9], "label": "abb"[i % 3]} for i, text in enumerate(texts)
    ]
    (folder / "related.jsonl").write_text("\n".join(map(json.dumps, related)))
    rows = [
        {
            "question": text[:9],
            "context": text[9:],
            "answers": text[20:32] if i % 3 else "",
            "always": text[20:40],
            "some": text[: 10 + i],
        }
        for i, text in enumerate(texts)
    ]
    (folder / "asked.jsonl").write_text("\n".join(map(json.dumps, rows)))
    chats = [
        {
            "messages": [
                {"role": ("user", "assistant")[n % 2], "content": word}
                for n, word in enumerate(text.split()[:4])
            ]
        }
        for text in texts
    ]
    (folder / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)))
    preferred = [{"prompt": text[:9], "chosen": text[9:20], "rejected": text[20:25]} for text in texts]
    (folder / "preferred.jsonl").write_text("\n".join(map(json.dumps, preferred)))
    for name, between in (("plain", ":"), ("other", "!")):
        turn = (
            "{{ m.role[0] }}"
            + between
            + "{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
        )
        (folder / f"{name}.jinja").write_text(
            "{% for m in messages %}"
            + turn
            + "{% endfor %}{% if add_generation_prompt %}a"
            + between
            + "{% endif %}"
        )
    (folder / "pairs.csv").write_text("\n".join(["anchor,positive,negative,text", *pairs]))

    @functools.cache
    def feed(text):
        sections = json.loads(text.replace("{folder}", str(folder)))
        bpe = {"type": "byte_bpe", "vocab_size": 280}
        return Fed(config_from_mapping(mapping(folder / "text.txt", **{"tokenizer": bpe, **sections})))

    return lambda sections: feed(json.dumps(sections))


ENCODER = {"type": "encoder", "num_layers": 1, "hidden_dim": 8, "num_heads": 2}


def masked(**keys):
    return {"task": {"type": "masked_lm", **keys}, "model": ENCODER}


def _hides(fed):
    assert "masked_positions" in fed.features and (fed.features["token_ids"] == fed.tokenizer.mask_id).any()


def _share(fed):
    share = fed.features["masked_weights"].sum() / (fed.rows["words"] > 0).sum()
    assert abs(share - 0.4) < 0.05, share


def _none_is_a_mask(fed):
    assert (fed.features["token_ids"] != fed.rows["token_ids"]).sum() > 50
    assert not (fed.features["token_ids"] == fed.tokenizer.mask_id).any()


def _whole(fed):
    number = fed.rows["segment_ids"] * 1000 + fed.rows["words"]
    broken = 0
    for row, (places, weights) in enumerate(
        zip(fed.features["masked_positions"], fed.features["masked_weights"], strict=True)
    ):
        hidden = np.zeros(number.shape[1], bool)
        hidden[places[weights > 0]] = True
        broken += len(set(number[row, hidden].tolist()) & set(number[row, ~hidden].tolist()))
    assert broken == 0


def _pairs(fed):
    assert "token_type_ids" in fed.features and fed.features["token_type_ids"].max() == 1
    assert set(fed.features["next_sentence_labels"].ravel()) == {0, 1}
    assert "next_sentence_accuracy" in fed.task.metric_modes


SENTINELS = {"type": "byte_bpe", "vocab_size": 400}
T5 = {
    "type": "encoder_decoder",
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
    "hidden_dim": 8,
    "num_heads": 2,
}


def spans(**keys):
    return {"task": {"type": "span_corruption", **keys}, "model": T5, "tokenizer": SENTINELS}


def _written(fed):
    return fed.features["loss_weights"].sum() / fed.rows["segment_ids"].sum()


def _has_both_texts(fed):
    assert "encoder_token_ids" in fed.features
    assert fed.features["encoder_token_ids"].size > fed.features["decoder_token_ids"].size


def _most_is_written(fed):
    assert _written(fed) > 0.45


def _long_spans(fed):
    sentinels = np.isin(fed.features["encoder_token_ids"], fed.task.sentinels).sum(axis=1)
    assert sentinels.max() == 1, "of a row of 16"


def pairs(**keys):
    data = {"train": {"type": "csv", "path": "{folder}/pairs.csv"}, "seq_len": 24, "num_workers": 1}
    return {"task": {"type": "contrastive", **keys}, "model": {**ENCODER, "dropout": 0.1}, "data": data}


def _loss_with(**keys):
    """The loss of some vectors is that which other code gives with these settings."""
    expected = {"temperature": 0.05, "directions": "both", "mask_duplicates": True, **keys}

    def shows(fed):
        assert "roles" in fed.features
        vectors = np.random.default_rng(0).normal(size=[*fed.features["roles"].shape, 4]).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
        loss = fed.task.loss_of_vectors({"vectors": tf.constant(vectors)}, fed.features)["loss"]
        flat = (vectors.reshape(-1, 4), *(fed.features[name].ravel() for name in ("roles", "text_keys")))
        assert float(loss) == pytest.approx(by_hand(*flat, SimpleNamespace(**expected))[0], rel=1e-4)

    return shows


def _first_token(fed):
    states = np.random.default_rng(0).normal(size=[*fed.features["token_ids"].shape, 4]).astype(np.float32)
    vectors = fed.task.vectors(None, fed.features, {"hidden_states": tf.constant(states)})["vectors"][:, 0]
    np.testing.assert_allclose(
        vectors, states[:, 0] / np.linalg.norm(states[:, 0], axis=1)[:, None], rtol=1e-5
    )


def _twins(fed):
    keys, roles = fed.features["text_keys"], fed.features["roles"]
    assert (keys[:, :-1] == keys[:, 1:])[roles[:, :-1] == 1].all()


def _negatives(fed):
    assert (fed.features["roles"] == 3).sum() == (fed.features["roles"] == 1).sum()


def labelled(**keys):
    data = {"train": {"type": "csv", "path": "{folder}/labels.csv"}, "seq_len": 48}
    return {"task": {"type": "classification", **keys}, "model": ENCODER, "data": data}


def _counts(*weights, smoothing=0.0):
    """What a text of either class adds to the loss and to what it is divided by."""

    def shows(fed):
        assert getattr(fed.task, "class_names", None) == ("a", "b")
        np.testing.assert_allclose(fed.task.class_weights, weights, rtol=1e-5)
        features = {name: fed.features[name][:1, :1] for name in ("labels", "weights", "example_ids")}
        label = int(features["labels"][0, 0])
        loss = fed.task.loss(None, features, {"logits": tf.constant([[[0.3, -0.4]]])})["loss"]
        logs = np.log(np.exp([0.3, -0.4]) / np.exp([0.3, -0.4]).sum())
        expected = (1 - smoothing) * logs[label] * weights[label] + smoothing * np.mean(logs * weights)
        assert float(loss) == pytest.approx(-expected, rel=1e-5)
        assert float(fed.task.weights(features)["loss"]) == pytest.approx(weights[label], rel=1e-5)

    return shows


def _both_texts(fed):
    assert "token_type_ids" in fed.features and fed.features["token_type_ids"].max() == 1


def _reads(begin):
    def shows(fed):
        texts = (fed.tokenizer.decode(row.tolist()) for row in fed.features["token_ids"])
        assert all(text.startswith(begin) for text in texts)

    return shows


def tagged(**keys):
    mapping = labelled(multi_label=True, **keys)
    train = {**mapping["data"]["train"], "columns": {"label": "tags"}}
    return {**mapping, "data": {**mapping["data"], "train": train}}


def _sets_of(*names):
    def shows(fed):
        assert getattr(fed.task, "class_names", None) == names
        real = fed.features["example_ids"] >= 0
        assert fed.features["labels"].ndim == 3
        assert set(fed.features["labels"][real].sum(axis=-1).tolist()) == (
            {1.0, 2.0} if "b" in names else {1.0}
        )

    return shows


def numbered(**keys):
    train = {"type": "csv", "path": "{folder}/labels.csv", "columns": {"label": "score"}}
    data = {"train": train, "seq_len": 48, "packing": False}
    return {"task": {"type": "regression", **keys}, "model": ENCODER, "data": data}


def _squares(fed):
    assert "labels" in fed.features
    features = {name: fed.features[name][:1, :1] for name in ("labels", "weights", "example_ids")}
    label = float(features["labels"][0, 0])
    loss = fed.task.loss(None, features, {"logits": tf.constant([[[label + 3.0]]])})["loss"]
    assert float(loss) == pytest.approx(9.0 * float(features["weights"][0, 0]), rel=1e-5)


def words(file="tags", **keys):
    data = {"train": {"type": "jsonl", "path": f"{{folder}}/{file}.jsonl"}, "seq_len": 48}
    return {"task": {"type": "token_classification", **keys}, "model": ENCODER, "data": data}


def _tags(*names):
    """Every other word of a text is the second, or the second but one."""

    def shows(fed):
        assert getattr(fed, "error", "") == "" and getattr(fed.task, "class_names", None) == names
        told, last = fed.features["words"] > 0, len(names) // 2
        word, tag = fed.features["words"][told], fed.features["tags"][told]
        assert told.any() and (tag == np.where(word % 2 == 1, 0, last)).all()

    return shows


def related(**keys):
    columns = {name: name for name in ("text", "head", "tail", "label")}
    train = {"type": "jsonl", "path": "{folder}/related.jsonl", "columns": columns}
    task = {"type": "relation_extraction", **keys}
    return {"task": task, "model": ENCODER, "data": {"train": train, "seq_len": 96}}


def _marks_places(fed):
    real = fed.features["segment_ids"] > 0
    texts = [
        fed.tokenizer.decode(row[own].tolist())
        for row, own in zip(fed.features["token_ids"], real, strict=True)
    ]
    assert all(text.startswith("@ ") and text.count("#") >= 2 for text in texts), texts[0]


def _leaves_one_out(fed):
    assert "relation_f1" in fed.task.metric_modes and fed.task.no_relation == "b"


ANSWERED = {"question": "question", "context": "context", "answers": "always"}


def asked(columns=None, **keys):
    columns = columns or {name: name for name in ANSWERED}
    train = {"type": "jsonl", "path": "{folder}/asked.jsonl", "columns": columns}
    task = {"type": "span_qa", **keys}
    return {"task": task, "model": ENCODER, "data": {"train": train, "seq_len": 28, "packing": False}}


def _marks_answers(fed):
    marks = fed.features.get("answer")
    assert marks is not None
    assert set(marks.sum(axis=1).tolist()) <= {0, 3} and (marks == 1).any() and (marks[:, 0] == 3).any()


def _shares(tokens):
    """Windows of one context that follow each other share so many tokens."""

    def shows(fed):
        rows = {}
        for begins, number in zip(fed.rows["begins"], fed.rows["example_ids"][:, 0], strict=True):
            rows.setdefault(int(number), []).append(begins[begins > 0])
        cut = [sorted(each, key=lambda begins: begins[0]) for each in rows.values() if len(each) > 2]
        shared = {len(set(one) & set(other)) for each in cut for one, other in pairwise(each[:-1])}
        assert shared == {tokens}, shared

    return shows


def _longest(tokens):
    def shows(fed):
        values = {"start": np.arange(9.0)[::-1], "end": np.arange(9.0), "begins": np.arange(1, 10)}
        window = {**values, "ends": np.arange(1, 10)}
        place = answer_of([window], max_answer_tokens=fed.task.max_answer_tokens)[:2]
        assert place[1] - place[0] == tokens

    return shows


def _may_be_silent(fed):
    assert "silence_accuracy" in fed.task.metric_modes


ANSWERS = {"source": "question", "target": "always"}


def answered(data=None, **keys):
    """A config that writes answers to sources."""
    train = {"type": "jsonl", "path": "{folder}/asked.jsonl", "columns": ANSWERS}
    return {
        "task": {"type": "seq2seq", **keys},
        "model": T5,
        "data": {"train": train, "seq_len": 48, **(data or {})},
    }


VARIED = {"source": "some", "target": "question"}
LONGER = {"train": {"type": "jsonl", "path": "{folder}/asked.jsonl", "columns": VARIED}, "seq_len": 32}


def _writes(begin):
    """What the encoder reads begins so, and the decoder reads what it is to write, one token before."""

    def shows(fed):
        assert "encoder_token_ids" in fed.features
        assert fed.tokenizer.decode(fed.features["encoder_token_ids"][0].tolist()).startswith(begin)
        read, targets = fed.features["decoder_token_ids"][0], fed.features["targets"][0]
        own = fed.features["decoder_segment_ids"][0] == 1
        assert read[own][0] == 0 and (read[own][1:] == targets[own][:-1]).all()

    return shows


def _smooths(share):
    def shows(fed):
        features = {"targets": tf.constant([[1]]), "loss_weights": tf.constant([[1.0]])}
        logits = tf.constant([[[0.0, 3.0, 0.0]]])
        model = SimpleNamespace(logits=lambda hidden: hidden)
        loss = float(fed.task.loss(model, features, {"hidden_states": logits})["loss"])
        logs = tf.nn.log_softmax(logits[0, 0]).numpy()
        assert loss == pytest.approx(-(1 - share) * logs[1] - share * logs.mean(), rel=1e-5)

    return shows


def chats(template="plain", **keys):
    """A config that learns to answer in conversations."""
    return {
        "task": {"type": "chat", "template_file": f"{{folder}}/{template}.jinja", **keys},
        "data": {
            "train": {"type": "jsonl", "path": "{folder}/chats.jsonl"},
            "seq_len": 128,
            "packing": False,
        },
    }


def preferred(template="plain", **keys):
    """A config that learns to prefer answers."""
    return {
        "task": {"type": "preference", "template_file": f"{{folder}}/{template}.jinja", **keys},
        "model": {"type": "decoder", "num_layers": 1, "hidden_dim": 8, "num_heads": 2, "source": "a start"},
        "data": {
            "train": {"type": "jsonl", "path": "{folder}/preferred.jsonl"},
            "seq_len": 64,
            "packing": False,
        },
    }


def _pairs_up(fed):
    assert "keys_low" in fed.rows
    assert (
        fed.rows["keys_low"].shape[1] == 2
        and (fed.rows["example_ids"][:, 0] == fed.rows["example_ids"][:, 1]).all()
    )


def _prefers(loss):
    """The loss of a pair of answers of 2 and 4 tokens, at -3 and -8, which at the start were at -4 and -6."""

    def shows(fed):
        sums, counts = tf.constant([[-3.0, -8.0]]), tf.constant([[2.0, 4.0]])
        found = fed.task._losses(sums, counts, {"reference": tf.constant([[-4.0, -6.0]])})
        assert float(found[0, 0]) == pytest.approx(loss, rel=1e-5)

    return shows


def _log_sigmoid(x):
    return -math.log1p(math.exp(-x))


def _learns(answers):
    """So many stretches of each conversation of two turns, each behind what says who speaks, and with its end."""

    def shows(fed):
        assert "learned" in fed.rows and fed.rows["token_ids"].shape[0] > 30
        for row, learned in zip(fed.features["targets"], fed.features["loss_weights"] > 0, strict=True):
            starts = np.flatnonzero(learned & ~np.concatenate([[False], learned[:-1]]))
            assert len(starts) == answers
            if answers:
                assert (row[learned] == fed.tokenizer.eos_id).sum() == answers

    return shows


def _learns_all(fed):
    assert (
        "learned" in fed.rows and ((fed.features["loss_weights"] > 0) == (fed.rows["segment_ids"] > 0)).all()
    )


def _is_told_by(mark):
    def shows(fed):
        assert fed.tokenizer.decode(fed.rows["token_ids"][0].tolist())[1] == mark

    return shows


def _drops(fed):
    """Of some sixty sources those that are too long are not there."""
    count = len(set(fed.rows["example_ids"].flatten().tolist()) - {-1})
    assert 0 < count < 50, count


def augmented(file="labels", **augment):
    data = {"train": {"type": "csv", "path": f"{{folder}}/{file}.csv"}, "seq_len": 48, "packing": False}
    return {**labelled(), "data": {**data, "augment": {"copies": 1, **augment}}}


def _altered(kind, share=0.0):
    """Some texts to train on are not those of the file, and differ in this way alone."""

    def shows(fed):
        given = {text[:30].upper() if kind == "letters" else text[:30] for text in documents(60)}
        words = {word for text in given for word in text.split()}
        texts = [fed.tokenizer.decode(row.tolist()) for row in fed.rows["token_ids"]]
        others = [text for text in texts if text not in given]
        assert others and len(others) > share * len(texts)
        if kind == "words":
            assert all(word in words for text in others for word in text.split())
        elif kind == "letters":
            assert {text.lower() for text in others} <= {text.lower() for text in given}
        else:
            assert all(any(word not in words for word in text.split()) for text in others)

    return shows


CASES = {
    "data.augment.copies": Case(_altered("typos", 0.7), augmented(copies=5, typos=1.0), augmented(typos=1.0)),
    "data.augment.word_dropout": Case(
        _altered("words"), augmented(word_dropout=0.4), augmented(word_dropout=0.1, typos=1.0)
    ),
    "data.augment.lowercase": Case(
        _altered("letters"),
        augmented("capitals", lowercase=0.9),
        augmented("capitals", lowercase=0.9, word_dropout=0.5),
    ),
    "data.augment.typos": Case(_altered("typos"), augmented(typos=1.0), augmented(word_dropout=0.4)),
    "task:seq2seq": Case(_writes(""), answered(), masked()),
    "task:seq2seq.template": Case(_writes("Ask: "), answered(template="Ask: {source}"), answered()),
    "task:seq2seq.label_smoothing": Case(_smooths(0.3), answered(label_smoothing=0.3), answered()),
    "data.on_too_long": Case(_drops, answered(data=LONGER | {"on_too_long": "drop"}), answered(data=LONGER)),
    "task:chat": Case(_learns(2), chats(), masked()),
    "task:chat.train_on": Case(_learns_all, chats(train_on="all"), chats()),
    "task:chat.template_file": Case(_is_told_by("!"), chats("other"), chats()),
    "task:preference": Case(_pairs_up, preferred(), masked()),
    "task:preference.loss": Case(_prefers((0.5 + 0.5 - 5.0) ** 2), preferred(loss="ipo"), preferred()),
    "task:preference.beta": Case(_prefers(-_log_sigmoid(0.5 * 3)), preferred(beta=0.5), preferred()),
    "task:preference.label_smoothing": Case(
        _prefers(-0.8 * _log_sigmoid(0.3) - 0.2 * _log_sigmoid(-0.3)),
        preferred(label_smoothing=0.2),
        preferred(),
    ),
    "task:preference.margin": Case(
        _prefers(-_log_sigmoid(2 * 0.5 - 3)), preferred(loss="simpo", margin=3), preferred(loss="simpo")
    ),
    "task:preference.template_file": Case(_is_told_by("!"), preferred("other"), preferred()),
    "task:span_corruption": Case(_has_both_texts, spans(), masked()),
    "task:span_corruption.corruption_rate": Case(_most_is_written, spans(corruption_rate=0.4), spans()),
    "task:span_corruption.mean_span_length": Case(
        _long_spans, spans(mean_span_length=8.0, corruption_rate=0.4), spans(corruption_rate=0.4)
    ),
    "task:contrastive": Case(_loss_with(), pairs(), masked()),
    "task:contrastive.temperature": Case(_loss_with(temperature=0.5), pairs(temperature=0.5), pairs()),
    "task:contrastive.directions": Case(
        _loss_with(directions="anchor_to_positive"), pairs(directions="anchor_to_positive"), pairs()
    ),
    "task:contrastive.mask_duplicates": Case(
        _loss_with(mask_duplicates=False, temperature=1.0),
        pairs(mask_duplicates=False, temperature=1.0),
        pairs(temperature=1.0),
    ),
    "task:contrastive.pooling": Case(_first_token, pairs(pooling="first"), pairs()),
    "task:contrastive.twins": Case(_twins, pairs(twins=True), pairs()),
    "task:contrastive.negatives": Case(_negatives, pairs(negatives=1), pairs()),
    "task:classification": Case(_counts(1, 1), labelled(), masked()),
    "task:classification.pairs": Case(_both_texts, labelled(pairs=True), labelled()),
    "task:classification.template": Case(_reads("Of "), labelled(template="Of {text}!"), labelled()),
    "task:regression.template": Case(_reads("Of "), numbered(template="Of {text}!"), numbered()),
    "task:classification.class_weights": Case(
        _counts(3, 1), labelled(class_weights={"a": 3.0}), labelled(class_weights={"b": 3.0})
    ),
    "task:classification.balanced": Case(_counts(1.5, 0.75), labelled(balanced=True), labelled()),
    "task:classification.label_smoothing": Case(
        _counts(1, 1, smoothing=0.3), labelled(label_smoothing=0.3), labelled()
    ),
    "task:classification.multi_label": Case(_sets_of("a", "b+a", "b+b+a"), tagged(), labelled()),
    "task:classification.label_separator": Case(_sets_of("a", "b"), tagged(label_separator="+"), tagged()),
    "task:regression": Case(_squares, numbered(), masked()),
    "task:regression.pairs": Case(_both_texts, numbered(pairs=True), numbered()),
    "task:token_classification": Case(_tags("O", "B-X", "I-X"), words("named"), masked()),
    "task:token_classification.tag_names": Case(
        _tags("NN", "VB"), words(tag_names=["NN", "VB"]), words("named", tag_names=["O", "B-X"])
    ),
    "task:relation_extraction": Case(_marks_places, related(), masked()),
    "task:relation_extraction.no_relation": Case(_leaves_one_out, related(no_relation="b"), related()),
    "task:relation_extraction.class_weights": Case(
        _counts(3, 1), related(class_weights={"a": 3.0}), related(class_weights={"b": 3.0})
    ),
    "task:relation_extraction.balanced": Case(_counts(1.5, 0.75), related(balanced=True), related()),
    "task:relation_extraction.label_smoothing": Case(
        _counts(1, 1, smoothing=0.3), related(label_smoothing=0.3), related()
    ),
    "task:span_qa": Case(_marks_answers, asked(), masked()),
    "task:span_qa.stride": Case(_shares(5), asked(stride=5), asked(stride=3)),
    "task:span_qa.max_answer_tokens": Case(_longest(2), asked(max_answer_tokens=2), asked()),
    "task:span_qa.unanswerable": Case(_may_be_silent, asked(ANSWERED, unanswerable=True), asked(ANSWERED)),
    "task:masked_lm": Case(_hides, masked(), {"task": "causal_lm"}),
    "task:masked_lm.mask_rate": Case(_share, masked(mask_rate=0.4), masked()),
    "task:masked_lm.mask_split": Case(_none_is_a_mask, masked(mask_split=[0.0, 1.0, 0.0]), masked()),
    "task:masked_lm.whole_words": Case(_whole, masked(whole_words=True), masked()),
    "task:masked_lm.next_sentence": Case(_pairs, masked(next_sentence=True), masked()),
}


@pytest.mark.parametrize("key", CASES)
def test_the_model_is_given_what_the_task_makes(key, made):
    hold(CASES[key], made)

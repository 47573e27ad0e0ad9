"""Targets written to sources: rows of encoder-decoders and of decoders, cut, learned, and written again."""

import json
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml

import tfllm
from tests.tasks import rows
from tests.tiny import randomized
from tests.training.toy import assert_same_training, trained_on_rows
from tfllm.commands.main import main
from tfllm.config import ConfigError, config_from_mapping
from tfllm.data.errors import DataError
from tfllm.data.pipeline import evaluation_batches
from tfllm.data.record import Record
from tfllm.data.sources import Source
from tfllm.experiment.source import documents_of, held_out_records
from tfllm.experiment.writing import gathered
from tfllm.models.decoder import Decoder
from tfllm.models.encoder_decoder import EncoderDecoder
from tfllm.tasks.examples.prompt import Prompt
from tfllm.tasks.seq2seq import Seq2Seq
from tfllm.tokenizers import ByteBPETokenizer, SentencePieceTokenizer, WordPieceTokenizer
from tfllm.tokenizers.byte import ByteTokenizer

T = 64
ENGLISH = [
    "the",
    "a",
    "red",
    "green",
    "small",
    "old",
    "cat",
    "dog",
    "bird",
    "house",
    "sees",
    "likes",
    "finds",
]
FRENCH = dict(
    zip(
        ENGLISH,
        [
            "le",
            "un",
            "rouge",
            "vert",
            "petit",
            "vieux",
            "chat",
            "chien",
            "oiseau",
            "maison",
            "voit",
            "aime",
            "trouve",
        ],
        strict=True,
    )
)
TEMPLATE = "Say {source} in French:"


class Pairs(Source):
    """Sentences of 1 to 7 words and the same words in another language, the other way round."""

    def __init__(self, count=48, more=()):
        rng = np.random.default_rng(0)
        self.rows = list(more)
        for number in range(count):
            words = [str(word) for word in rng.choice(ENGLISH, 1 + number % 7)]
            target = " ".join(FRENCH[word] for word in reversed(words))
            self.rows.append({"source": " ".join(words), "target": target, "weight": 1 + number % 3})

    def records(self):
        return (Record(row, f"pairs:{number}") for number, row in enumerate(self.rows, 1))

    def describe(self):
        return "pairs"

    def fingerprint(self):
        return json.dumps(self.rows)


TEXTS = [f"{row['source']} {row['target']}. Say in French:" for row in Pairs().rows]


@pytest.fixture(scope="module")
def tokenizer():
    return SentencePieceTokenizer.train(TEXTS, vocab_size=320, frame="eos")


@pytest.fixture(scope="module", params=["encoder_decoder", "decoder"])
def kind(request):
    return request.param


def task_of(tokenizer, kind, **settings):
    own = {"decoder_start_id": 0} if kind == "encoder_decoder" else {"template": TEMPLATE}
    return Seq2Seq(tokenizer=tokenizer, **{**own, **settings})


def rows_of(task, tokenizer, folder, packing=True, source=None, seq_len=T):
    return rows.rows_of(task, tokenizer, folder, source or Pairs(), seq_len=seq_len, packing=packing)


@pytest.fixture(scope="module")
def stores(tokenizer, kind, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    return {
        packing: rows_of(task_of(tokenizer, kind), tokenizer, folder, packing) for packing in (True, False)
    }


def model_of(tokenizer, kind, dropout=0.0, seed=3):
    sizes = {"hidden_dim": 16, "num_heads": 2, "max_seq_len": T, "vocab_size": tokenizer.vocab_size}
    if kind == "decoder":
        return randomized(Decoder(num_layers=1, dropout=dropout, **sizes), seed=seed)
    both = {"num_encoder_layers": 1, "num_decoder_layers": 1}
    return randomized(EncoderDecoder(dropout=dropout, **both, **sizes), seed=seed)


def batch_of(task, store, size=64):
    [batch] = evaluation_batches(store, batch_size=size, transform=task.features, aligned=task.aligned)
    return {name: x.numpy() for name, x in batch.items()}


def learned(batch, row, segment):
    """The targets of an example, and what the decoder reads where they are learned."""
    side = "decoder_" if "decoder_token_ids" in batch else ""
    own = (batch[f"{side}segment_ids"][row] == segment + 1) & (batch["loss_weights"][row] > 0)
    return batch["targets"][row][own].tolist(), batch[f"{side}token_ids"][row][own].tolist()


@pytest.mark.parametrize("packing", [True, False])
def test_rows_hold_each_pair_and_learn_its_target_alone(stores, tokenizer, kind, packing):
    task, source = task_of(tokenizer, kind), Pairs().rows
    batch = batch_of(task, stores[packing])
    eos, found = tokenizer.eos_id, 0
    for row, segment in zip(*np.nonzero(batch["example_ids"] >= 0), strict=True):
        record = source[batch["example_ids"][row, segment]]
        targets, read = learned(batch, row, segment)
        assert tokenizer.decode(targets[:-1]) == record["target"] and targets[-1] == eos
        if kind == "encoder_decoder":
            own = batch["encoder_segment_ids"][row] == segment + 1
            ids = batch["encoder_token_ids"][row][own].tolist()
            assert ids == [*tokenizer.encode(record["source"]), eos]
            assert read == [0, *targets[:-1]]
        else:
            own = batch["segment_ids"][row] == segment + 1
            ids = batch["token_ids"][row][own].tolist()
            prompt = tokenizer.encode(TEMPLATE.format(**record))
            assert ids[: len(prompt)] == prompt and ids == [*prompt, *targets[:-1]]
            assert read == ids[len(prompt) - 1 :]
        own = batch["decoder_segment_ids" if kind == "encoder_decoder" else "segment_ids"][row] == segment + 1
        weights = set(batch["loss_weights"][row][own].tolist()) - {0.0}
        assert weights == {float(record["weight"])}
        found += 1
    assert found == len(source)
    assert stores[packing].num_cut == stores[packing].num_dropped == 0
    if packing:
        assert stores[True].num_rows * 1.5 < stores[False].num_rows


def losses(task, model, store, size):
    return rows.evaluated(task, model, store, size).sums


def test_packed_losses_are_those_of_each_pair_alone(stores, tokenizer, kind):
    task, model = task_of(tokenizer, kind), model_of(tokenizer, kind)
    alone, packed = (losses(task, model, stores[packing], 8) for packing in (False, True))
    assert packed["weight"] == alone["weight"] > 0
    assert packed["loss"] == pytest.approx(alone["loss"], rel=2e-6)
    assert packed["right"] == alone["right"]


def test_the_loss_is_smoothed_as_torch_has_it(stores, tokenizer, kind):
    """torch.nn.CrossEntropyLoss: (1 - s) of the target's loss, and s of the mean loss of all tokens."""
    task, model = task_of(tokenizer, kind, label_smoothing=0.2), model_of(tokenizer, kind)
    batch = batch_of(task, stores[True])
    outputs = model(batch)
    logits = outputs["logits"].numpy().astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    nll = -np.take_along_axis(logs, batch["targets"][..., None], axis=-1)[..., 0]
    expected = ((0.8 * nll + 0.2 * -logs.mean(axis=-1)) * batch["loss_weights"]).sum()
    for chunk in (None, 7):
        task.loss_chunk_tokens = chunk
        assert float(task.loss(model, batch, outputs)["loss"]) == pytest.approx(expected, rel=1e-5)
    assert float(task.weights(batch)["loss"]) == batch["loss_weights"].sum()


@pytest.mark.slow
@pytest.mark.parametrize("division", [{"replicas": 2, "num_microbatches": 2}], ids=["2 x 2"])
def test_replicas_and_microbatches_equal_one_device(stores, tokenizer, kind, division):
    task = task_of(tokenizer, kind, label_smoothing=0.1)

    def train(**arguments):
        return trained_on_rows(
            task, stores[True], lambda dropout: model_of(tokenizer, kind, dropout), **arguments
        )

    assert_same_training(train(), train(**division))


@pytest.mark.parametrize("learn", ["sentencepiece", "byte_bpe", "wordpiece", "byte"])
def test_a_decoders_prompt_has_the_ids_that_it_has_alone(learn, tmp_path):
    tokenizer = {
        "sentencepiece": lambda: SentencePieceTokenizer.train(TEXTS, vocab_size=320),
        "byte_bpe": lambda: ByteBPETokenizer.train(TEXTS, vocab_size=400),
        "wordpiece": lambda: WordPieceTokenizer.train(TEXTS, vocab_size=200),
        "byte": ByteTokenizer,
    }[learn]()
    joined = [
        {"source": "the cat", "target": f"{begin}le chat", "weight": 1} for begin in ("\n\n", "  ", "\n")
    ]
    for template in (TEMPLATE, "{source} →\n", "{source}\n\n", "{source}"):
        task = Seq2Seq(tokenizer=tokenizer, template=template)
        source = Pairs(
            20, more=joined
        )  # line feeds that a tokenizer may put together with those of the template
        store = rows_of(task, tokenizer, tmp_path, packing=False, source=source, seq_len=160)
        assert store.num_documents == 23
        batch = batch_of(task, store)
        for row, record in enumerate(source.rows):
            targets, read = learned(batch, row, 0)
            own = batch["segment_ids"][row] > 0
            whole = batch["token_ids"][row][own].tolist()
            prompt = task.prompt_ids(record["source"])
            assert whole[: len(prompt)] == prompt and read[0] == prompt[-1]
            assert task.told(tokenizer.decode(targets[:-1])) == record["target"].strip(), template


LONG = {"source": " ".join(ENGLISH * 6), "target": "le chat"}
NEVER = {"source": "the cat", "target": " ".join([*FRENCH.values()] * 6)}


def test_what_is_too_long_is_cut_dropped_or_refused(tokenizer, kind, tmp_path):
    source = Pairs(3, more=[LONG, NEVER])
    task = task_of(tokenizer, kind)
    store = rows_of(task, tokenizer, tmp_path / "cut", False, source)
    assert (store.num_documents, store.num_cut, store.num_dropped) == (4, 1, 1)
    assert "1 texts are cut, for they are too long; 1 documents are left out" in store.summary
    batch = batch_of(task, store)
    assert batch["example_ids"][:4, 0].tolist() == [0, 2, 3, 4]
    targets, _ = learned(batch, 0, 0)
    assert tokenizer.decode(targets[:-1]) == "le chat", "the target is whole"
    side = "encoder_" if kind == "encoder_decoder" else ""
    ids = batch[f"{side}token_ids"][0][batch[f"{side}segment_ids"][0] > 0].tolist()
    text = tokenizer.decode(ids)
    assert "the a red" in text and text.count("finds") < 3
    assert len(ids) > T - 4, "no more is left out than must be"
    if kind == "decoder":
        assert text.endswith("in French: le chat"), "the template is whole"

    store = rows_of(task_of(tokenizer, kind, on_too_long="drop"), tokenizer, tmp_path / "drop", False, source)
    assert (store.num_documents, store.num_cut, store.num_dropped) == (3, 0, 2)
    with pytest.raises(
        DataError, match=r"^pairs:1: 'the a red .* is too long: \d+ tokens of the source and \d+ of"
    ):
        rows_of(task_of(tokenizer, kind, on_too_long="error"), tokenizer, tmp_path / "error", False, source)


@pytest.mark.parametrize("room", [1, 2, 5, 9, 30])
def test_a_cut_source_is_the_longest_that_fits(tokenizer, room):
    prompt = Prompt(tokenizer, before="Say ", behind=" now", suffix=[tokenizer.eos_id])
    source = " ".join(ENGLISH * 3)
    found = prompt.cut(source, room)
    fitting = [
        ids for end in range(1, len(source) + 1) if len(ids := prompt.batch([source[:end]])[0]) <= room
    ]
    if not fitting:
        assert found is None
        return
    assert max(map(len, fitting)) - 2 <= len(found) <= room
    assert tokenizer.decode(found).startswith(
        "Say the"[: len(tokenizer.decode(found))] if room < 6 else "Say the"
    )
    assert tokenizer.decode(found).endswith(" now") and found[-1] == tokenizer.eos_id


def write_pairs(folder, count=240):
    lines = [f"{row['source']}\t{row['target']}\t{n % 60}" for n, row in enumerate(Pairs(count).rows)]
    (folder / "pairs.tsv").write_text("\n".join(["en\tfr\tpage", *lines]))


YAML = """
name: pairs
task: {type: seq2seq}
tokenizer: {type: sentencepiece, vocab_size: 320}
model: {type: encoder_decoder, num_encoder_layers: 1, num_decoder_layers: 2, hidden_dim: 48, num_heads: 4}
data:
  train: {type: csv, path: pairs.tsv, columns: {source: en, target: fr}}
  split_by: page
  validation_fraction: 0.1
  test_fraction: 0.1
  seq_len: 16
  num_workers: 1
optimizer: {type: adamw, learning_rate: 5e-3, schedule: {type: linear, warmup_steps: 10}}
training: {steps: 160, global_batch_size: 16, evaluate_every: 80, best_metric: bleu, jit_compile: false}
evaluation: {max_examples: 12, bootstrap_samples: 40}
generation: {prompts: [the red cat], max_new_tokens: 12}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("translation")
    write_pairs(folder)
    (folder / "config.yaml").write_text(YAML)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "config.yaml"]) == 0
    return folder / "runs" / "pairs"


def entries(run, split):
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["split"] == split]


def test_a_translation_is_learned_written_and_tested(run, monkeypatch, capfd):
    before, after = (entries(run, "validation")[index] for index in (0, -1))
    assert after["bleu"] > 60 > 20 > before["bleu"] and after["chrf"] > before["chrf"]
    found = json.loads((run / "test.json").read_text())
    assert found["split"] == "test" and found["chosen_by"] == "validation bleu"
    assert found["intervals"]["bleu"][0] <= found["bleu"] <= found["intervals"]["bleu"][1]
    assert found["signatures"]["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a")
    samples = sorted((run / "samples").iterdir())
    assert samples, "a prompt is a source"

    lm = tfllm.load(run, jit_compile=False)
    assert lm.step == found["step"] and lm.tells == "targets"
    [one, other] = lm.write(["the red cat", "a small dog sees the bird"])
    assert one == lm.write("the red cat") and other
    right = sum(
        text == row["target"]
        for text, row in zip(lm.write([row["source"] for row in Pairs(40).rows]), Pairs(40).rows, strict=True)
    )
    assert right > 20

    monkeypatch.chdir(run.parent.parent)
    (run.parent.parent / "new.csv").write_text("en,page\nthe red cat,1\n")
    capfd.readouterr()
    assert main(["predict", str(run), "new.csv"]) == 0
    line = json.loads(capfd.readouterr().out)
    assert line == {"record": {"source": "the red cat", "page": "1"}, "written": one}
    assert main(["evaluate", str(run), "--split", "test", "--predictions", "said.jsonl"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["own_rows"] and told["split"] == "test" and told["chosen_by"] == "validation bleu"
    for name in ("bleu", "chrf", "rouge_l", "loss"):
        assert told[name] == pytest.approx(found[name], rel=1e-5)
    lines = [json.loads(line) for line in Path("said.jsonl").read_text().splitlines()]
    assert len(lines) == 12 and set(lines[0]) == {"number", "written", "source", "target", "page"}


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("total", [0, 1, 5, 6])
def test_what_workers_wrote_is_put_together_in_order(count, total, monkeypatch):
    texts = [list(range(10 * n, 10 * n + n % 4)) for n in range(total)]
    sent: dict[int, list[int]] = {}
    barrier = threading.Barrier(count, timeout=20)

    def gather(worker, numbers):
        sent[worker] = list(numbers)
        barrier.wait()
        every = [sent[each] for each in range(count)]
        barrier.wait()
        assert len(set(map(len, every))) == 1  # as many numbers at every worker
        return every

    monkeypatch.setattr("tfllm.experiment.writing.num_workers", lambda strategy: count)
    monkeypatch.setattr("tfllm.experiment.writing.gather_from_workers", gather)
    with ThreadPoolExecutor(count) as pool:
        found = list(pool.map(lambda worker: gathered(worker, texts[worker::count], total), range(count)))
    assert found == [texts] * count


def test_all_of_a_page_is_on_one_side(run, monkeypatch):
    monkeypatch.chdir(run.parent.parent)
    config = config_from_mapping(yaml.safe_load(YAML))
    pages = {
        side: {record.value("page") for _, record in held_out_records(config, side)}
        for side in ("validation", "test")
    }
    train = {str(page) for page in range(60)} - pages["validation"] - pages["test"]
    assert (
        pages["validation"] and pages["test"] and not pages["validation"] & pages["test"] and len(train) > 35
    )
    for seed in (1, 2):
        other = config_from_mapping({**yaml.safe_load(YAML), "seed": seed})
        assert {record.value("page") for _, record in held_out_records(other, "test")} == pages["test"]


BAD = [
    ({"template": "Say it"}, "must hold {source} once and no other place, and holds none"),
    ({"template": "{source} {target}"}, "and holds {source}, {target}"),
    ({"template": "{source!r}"}, "must hold {source} once"),
    ({"template": "{source.__class__}"}, "must hold {source} once"),
    ({"template": "{source"}, "has a brace that belongs to no {source}"),
]


@pytest.mark.parametrize(("task", "words"), BAD, ids=str)
def test_a_template_that_is_none_is_told(task, words):
    with pytest.raises(ConfigError, match=r"task\.template") as told:
        config_from_mapping(
            {"name": "x", "task": {"type": "seq2seq", **task}, "model": "encoder_decoder"}, for_training=False
        )
    assert words in str(told.value)


CANNOT = [
    ({"model": "decoder"}, "task.template", "is required, for a decoder reads source and target as one text"),
    ({"model": "encoder"}, "model.type", "which needs an encoder_decoder or a decoder"),
    ({"evaluation": {"metrics": ["blue"]}}, "evaluation.metrics", "perhaps bleu"),
    ({"evaluation": {"metrics": ["chrf"]}}, "training.best_metric", "is none of evaluation.metrics=chrf"),
]


@pytest.mark.parametrize(("sections", "key", "words"), CANNOT, ids=str)
def test_what_cannot_be_is_told_before_training(sections, key, words, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path, 30)
    mapping = {**yaml.safe_load(YAML), **sections}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(mapping))
    assert main(["train", "config.yaml"]) == 2
    told = capfd.readouterr().err
    assert key in told and words in told and "Traceback" not in told


def test_pairs_of_which_one_side_is_blank_are_left_out(tokenizer, kind, tmp_path):
    blank = [
        {"source": "  ", "target": "le chat"},
        {"source": "the cat", "target": "\n"},
        {"source": "", "target": ""},
    ]
    store = rows_of(task_of(tokenizer, kind), tokenizer, tmp_path, source=Pairs(4, more=blank))
    assert store.num_documents == 4 and store.num_dropped == 0


@pytest.mark.parametrize("target", [3, None, [], ["a", 2]])
def test_a_target_that_is_no_text_is_named(tokenizer, kind, tmp_path, target):
    source = Pairs(2, more=[{"source": "the cat", "target": target}])
    with pytest.raises(DataError, match="pairs:1: 'target' must be a text, or a list of texts"):
        rows_of(task_of(tokenizer, kind), tokenizer, tmp_path, source=source)


def test_of_several_right_texts_the_first_is_learned_and_all_count(tokenizer, kind, tmp_path):
    record = {"source": "the cat", "target": ["le chat", "un chat"]}
    task = task_of(tokenizer, kind)
    store = rows_of(task, tokenizer, tmp_path, False, Pairs(0, more=[record]))
    targets, _ = learned(batch_of(task, store, 1), 0, 0)
    assert tokenizer.decode(targets[:-1]) == "le chat"
    said = types.SimpleNamespace(values={"written": np.asarray("un chat")}, record=Record(record))
    sums = {"loss": 1.0, "weight": 1.0, "right": 1.0}
    assert task.evaluation_metrics(sums, [said])["rouge1"] == 1.0
    texts = documents_of(Pairs(0, more=[record]), None, ("source", "target"))
    assert list(texts) == ["the cat", "le chat", "un chat"], "a tokenizer is learned of all"
    assert task.signatures([said])["bleu"].startswith("nrefs:2|")

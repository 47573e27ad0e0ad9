"""Conversations: what of them is learned, what is cut, and what is refused."""

import json

import numpy as np
import pytest
import yaml

import tfllm
from tests.tasks.rows import evaluated, rows_of
from tests.tiny import randomized, tiny_lm
from tests.tokenizers.test_chat_contents import CHATML, THINKING
from tfllm.commands.main import main
from tfllm.config import ConfigError, config_from_mapping
from tfllm.data.conversation import conversation_of
from tfllm.data.errors import DataError
from tfllm.data.record import Record
from tfllm.data.split import Split
from tfllm.experiment.checks import template_notices
from tfllm.experiment.model_source import expand
from tfllm.experiment.overlap import overlaps
from tfllm.experiment.source import make_source
from tfllm.models.decoder import Decoder
from tfllm.tasks.chat import Chat
from tfllm.tasks.errors import TaskError
from tfllm.tokenizers import ByteBPETokenizer, ByteTokenizer
from tfllm.tokenizers.chat import ChatTemplate
from tfllm.tokenizers.chat.ends import turn_ends

LLAMA = (
    "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PHI = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
SPECIAL = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "qwen": ("<|im_start|>", "<|im_end|>"),
    "llama": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "phi": ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
}
TEMPLATES = {"chatml": CHATML, "qwen": THINKING, "llama": LLAMA, "gemma": GEMMA, "phi": PHI}
END = {
    "chatml": "<|im_end|>",
    "qwen": "<|im_end|>",
    "llama": "<|eot_id|>",
    "gemma": "<end_of_turn>",
    "phi": "<|end|>",
}
BEFORE = {"qwen": "<think>\n\n</think>\n\n"}  # which that model writes before an answer


def made(name):
    tokenizer = ByteBPETokenizer.train(
        ["what is the red cat? i think it is an assistant."] * 9,
        vocab_size=300,
        extra_special_tokens=[each for names in SPECIAL.values() for each in names],
    )
    tokenizer.chat_template = TEMPLATES[name]
    return tokenizer


@pytest.fixture(scope="module", params=TEMPLATES)
def named(request):
    return request.param, made(request.param)


@pytest.fixture(scope="module")
def tokenizer():
    return made("chatml")


def turns(*contents, **more):
    roles = ["user", "assistant"] * len(contents)
    return [{"role": role, "content": text, **more} for role, text in zip(roles, contents, strict=False)]


def examples(tokenizer, *records, seq_len=200, **keys):
    maker = Chat(tokenizer=tokenizer, **keys).examples_of(tokenizer, seq_len=seq_len, packing=True)
    records = [Record(fields, f"chats.jsonl:{n + 1}") for n, fields in enumerate(records)]
    assert all(map(maker.keeps, records))
    return list(maker.examples(records, range(len(records))))


def learned(tokenizer, example):
    """The texts of what is learned, one for each stretch."""
    flags = example.arrays["learned"].astype(bool)
    starts = np.flatnonzero(flags & ~np.concatenate([[False], flags[:-1]]))
    ends = np.flatnonzero(flags & ~np.concatenate([flags[1:], [False]])) + 1
    targets = example.arrays["targets"]
    return [
        tokenizer.decode(targets[a:b], skip_special_tokens=False) for a, b in zip(starts, ends, strict=True)
    ]


def whole(example):
    return [*example.arrays["token_ids"], example.arrays["targets"][-1]]


@pytest.mark.parametrize("answer", ["i", "think", "assistant", "<|im_end|> and <|eot_id|>", "red, red, red"])
def test_an_answer_and_the_end_of_its_turn_are_learned_and_nothing_else(named, answer):
    name, tokenizer = named
    [example] = examples(tokenizer, {"messages": turns("what is red?", answer)})
    assert learned(tokenizer, example) == [BEFORE.get(name, "") + answer + END[name]]
    [end] = [tokenizer.special_tokens[END[name]]]
    assert example.arrays["targets"][example.arrays["learned"] == 1][-1] == end
    # What is said makes no control token: as many ends as turns.
    assert whole(example).count(end) == 2
    several = {"messages": turns("red?", answer, "what?", answer, "the cat?", "the last one")}
    [example] = examples(tokenizer, several)
    texts = [answer, answer, BEFORE.get(name, "") + "the last one"]
    assert learned(tokenizer, example) == [text + END[name] for text in texts]
    [example] = examples(tokenizer, several, train_on="last_assistant")
    assert learned(tokenizer, example) == [texts[-1] + END[name]]
    [example] = examples(tokenizer, several, train_on="all")
    assert example.arrays["learned"].all()


def test_a_row_is_what_the_template_renders_and_no_more(named, tmp_path):
    name, tokenizer = named
    chats = [turns("what is red?", "a cat"), turns("is it?", "it is", "why?", "i think so")]
    texts = [ChatTemplate.of(tokenizer).render(chat) for chat in chats]
    ids = [whole(each) for each in examples(tokenizer, *({"messages": chat} for chat in chats))]
    assert [tokenizer.decode(each, skip_special_tokens=False) for each in ids] == texts
    begins = [each.count(tokenizer.bos_id) for each in ids]
    assert begins == [1 if name in ("llama", "gemma") else 0] * 2
    assert [each.count(tokenizer.eos_id) for each in ids] == [1 if name == "phi" else 0] * 2

    task = Chat(tokenizer=tokenizer)
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(json.dumps({"messages": chat}) for chat in chats))
    source = make_source(_config(path).data.train)
    store = rows_of(task, tokenizer, tmp_path / "rows", source, seq_len=sum(map(len, ids)))
    row = store.read(range(1))
    assert store.num_rows == 1
    segments = row["segment_ids"][0]
    assert [list(row["token_ids"][0][segments == each + 1]) for each in range(2)] == [
        each[:-1] for each in ids
    ]
    assert [list(row["targets"][0][segments == each + 1]) for each in range(2)] == [each[1:] for each in ids]


def _config(path, **data):
    return config_from_mapping(
        {
            "name": "x",
            "task": "chat",
            "model": "decoder",
            "data": {"train": {"type": "jsonl", "path": str(path)}, **data},
        }
    )


def test_packed_is_one_by_one(tokenizer, tmp_path):
    path = tmp_path / "chats.jsonl"
    rng = np.random.default_rng(0)
    words = ["what", "is", "the", "red", "cat", "i", "think", "it"]
    with path.open("w") as file:
        for n in range(24):
            texts = [
                " ".join(rng.choice(words, size=rng.integers(1, 9))) for _ in range(2 * rng.integers(1, 4))
            ]
            file.write(json.dumps({"messages": turns(*texts), "weight": 0.25 + n % 3}) + "\n")
    source = make_source(_config(path).data.train)
    task = Chat(tokenizer=tokenizer)
    model = randomized(
        Decoder(vocab_size=tokenizer.vocab_size, num_layers=1, hidden_dim=16, num_heads=4, max_seq_len=160)
    )
    found = []
    for packing in (True, False):
        store = rows_of(task, tokenizer, tmp_path / "rows", source, seq_len=160, packing=packing)
        assert store.num_rows < 12 if packing else store.num_rows == 24
        found.append(evaluated(task, model, store, 8).metrics)
    assert found[0]["tokens"] == found[1]["tokens"] > 100
    assert found[0]["loss"] == pytest.approx(found[1]["loss"], rel=2e-6)


CHAT = turns("what is red?", "a cat", "is it?", "it is")
SAME = {
    "messages": {"messages": CHAT},
    "json": {"messages": json.dumps(CHAT)},
    "conversations": {
        "conversations": [
            {"from": {"user": "human", "assistant": "gpt"}[each["role"]], "value": each["content"]}
            for each in CHAT
        ]
    },
    "from_value_as_messages": {
        "messages": [{"from": each["role"], "value": each["content"]} for each in CHAT]
    },
    "prompt_of_messages": {"prompt": CHAT[:-1], "completion": CHAT[-1:]},
    "nothing_where_null": {"messages": [{**each, "tool_calls": None, "name": None} for each in CHAT]},
}


@pytest.mark.parametrize("form", SAME)
def test_the_usual_forms_of_a_conversation_say_the_same(tokenizer, form):
    [expected] = examples(tokenizer, {"messages": CHAT})
    [example] = examples(tokenizer, SAME[form])
    assert whole(example) == whole(expected)
    assert conversation_of(Record(SAME[form])).opening == "what is red?"


def test_a_prompt_and_its_completion_are_two_turns(tokenizer):
    [example] = examples(tokenizer, {"prompt": "what is red?", "completion": "a cat", "more": 3})
    [expected] = examples(tokenizer, {"messages": CHAT[:2]})
    assert whole(example) == whole(expected)


@pytest.mark.parametrize("off", [{"train": False}, {"weight": 0}], ids=str)
def test_an_answer_that_says_so_is_read_and_not_learned(tokenizer, off):
    marked = [CHAT[0], {**CHAT[1], **off}, *CHAT[2:]]
    [example] = examples(tokenizer, {"messages": marked})
    assert learned(tokenizer, example) == ["it is<|im_end|>"]
    [plain] = examples(tokenizer, {"messages": CHAT})
    assert whole(example) == whole(plain)
    assert examples(tokenizer, {"messages": [CHAT[0], {**CHAT[1], **off}]}) == []  # nothing to learn
    with pytest.raises(DataError, match=r"task\.train_on=all learns every token"):
        examples(tokenizer, {"messages": marked}, train_on="all")


def test_tools_reach_the_template():
    tokenizer = made("qwen")
    tools = [{"type": "function", "function": {"name": "find", "parameters": {}}}]
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "find", "arguments": {"what": "cat"}}}]}
    chat = [CHAT[0], call, {"role": "tool", "content": "here"}, CHAT[1]]
    for given in (tools, json.dumps(tools)):
        [example] = examples(tokenizer, {"messages": chat, "tools": given}, seq_len=600)
        text = tokenizer.decode(whole(example), skip_special_tokens=False)
        assert '"name": "find"' in text.split("<|im_end|>")[0]
        first, last = learned(tokenizer, example)
        assert (
            '"arguments": {"what": "cat"}' in first
            and first.endswith("<|im_end|>")
            and last.endswith("a cat<|im_end|>")
        )


def test_what_is_too_long_loses_its_oldest_turns_whole(tokenizer):
    system = {"role": "system", "content": "be short"}
    chat = [system, *turns("red?", "a cat", "is it?", "it is", "why?", "i think so")]

    def kept(length, **keys):
        return examples(tokenizer, {"messages": chat}, seq_len=length, **keys)

    [full] = examples(tokenizer, {"messages": chat})
    [without_one] = examples(tokenizer, {"messages": [system, *chat[3:]]})
    [without_two] = examples(tokenizer, {"messages": [system, *chat[5:]]})
    for length in range(8, full.num_tokens + 2):
        found = kept(length)
        expected = next((e for e in (full, without_one, without_two) if e.num_tokens <= length), None)
        assert [whole(e) for e in found] == ([] if expected is None else [whole(expected)]), length
        assert all(e.is_cut == (expected is not full) for e in found)
    assert kept(full.num_tokens - 1, on_too_long="drop") == []
    assert len(kept(full.num_tokens, on_too_long="drop")) == 1
    with pytest.raises(
        DataError, match=rf"has {full.num_tokens + 1} tokens, and data.seq_len={full.num_tokens - 1}"
    ):
        kept(full.num_tokens - 1, on_too_long="error")


BAD = [
    ({"messages": turns("hello")}, "no message is the assistant's"),
    ({"messages": []}, "holds no message"),
    ({"messages": "hello"}, "must be a list of messages"),
    ({"messages": ["hello"]}, r"messages\[0\]='hello' must be a message"),
    (
        {"messages": [{"role": "bot", "content": "a"}]},
        "role='bot' is not a role; write one of system, developer, user",
    ),
    ({"conversations": [{"from": "alien", "value": "a"}]}, "role='alien' is not a role"),
    (
        {"messages": [CHAT[0], {"role": "assistant", "content": ""}]},
        r"messages\[1\]: the assistant says nothing",
    ),
    ({"prompt": "a", "completion": ""}, r"prompt\[1\]: the assistant says nothing"),
    ({"prompt": "a"}, "no message is the assistant's"),
    (
        {"text": "a"},
        "no column 'messages' or 'conversations', nor 'prompt' and 'completion'; the columns are 'text'",
    ),
    ({"messages": [{**CHAT[0], "train": True}, CHAT[1]]}, "only what the assistant says is learned"),
    ({"messages": [CHAT[0], {**CHAT[1], "train": "no"}]}, "train='no' must be false"),
    ({"messages": [CHAT[0], {**CHAT[1], "weight": 0.5}]}, "weight=0.5 must be 0"),
    ({"messages": CHAT, "tools": "find"}, "tools='find' must be a list of functions"),
    ({"messages": CHAT, "tools": [{"name": "find"}]}, "the chat template has no place for them"),
]


@pytest.mark.parametrize(("fields", "words"), BAD, ids=str)
def test_what_is_no_conversation_is_told_with_its_place(tokenizer, fields, words):
    with pytest.raises(DataError, match=words) as told:
        examples(tokenizer, fields)
    assert str(told.value).startswith("chats.jsonl:1: ")


def test_a_template_that_hides_answers_or_refuses_a_chat_is_told(tokenizer):
    hides = made("chatml")
    hides.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    )
    with pytest.raises(
        DataError, match=r"chats.jsonl:1: messages\[1\]: the chat template does not render this answer"
    ):
        examples(hides, {"messages": CHAT})
    hides.chat_template = "{% for m in messages %}{{ raise_exception('only users') }}{% endfor %}"
    with pytest.raises(
        DataError, match=r"chats.jsonl:1: the chat template cannot render these messages: only users"
    ):
        examples(hides, {"messages": CHAT})
    with pytest.raises(
        TaskError, match=r"needs a chat template, and this tokenizer has none; write .*task.template_file"
    ):
        Chat(tokenizer=ByteTokenizer())
    once = "{% for m in messages %}{% if loop.last %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}[{{ m.content }}]{% endif %}{% endfor %}"
    hides.chat_template = once
    [example] = examples(hides, {"messages": CHAT})
    assert learned(hides, example) == ["it is<|im_end|>"]
    with pytest.raises(DataError, match="marks 1 answers of 2, so which of them is learned is not known"):
        examples(hides, {"messages": [CHAT[0], {**CHAT[1], "train": False}, *CHAT[2:]]})


def test_conversations_that_open_alike_are_on_one_side(tmp_path):
    path, other = tmp_path / "chats.jsonl", tmp_path / "others.jsonl"
    chats = [{"messages": turns(f"question {n % 30}", f"answer {n}")} for n in range(300)]
    path.write_text("\n".join(map(json.dumps, chats)))
    source = make_source(_config(path).data.train)
    sides = {
        side: {
            conversation_of(record).opening
            for record in source.records()
            if Split(side, validation=0.3).holds(record, "messages")
        }
        for side in ("train", "validation")
    }
    assert not sides["train"] & sides["validation"] and len(sides["train"] | sides["validation"]) == 30
    other.write_text("\n".join(map(json.dumps, [chats[0], {"messages": turns("another", "one")}])))
    config = _config(path, validation={"type": "jsonl", "path": str(other)})
    [line] = overlaps(config, source)
    assert "of 1 of 2 records the messages stands in the training text too" in line


def test_the_end_of_a_turn_is_known_and_learned(named):
    name, tokenizer = named
    assert turn_ends(tokenizer) == [END[name]]


def test_a_turn_may_end_in_the_mark_of_the_next():
    tokenizer = made("phi")
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    )
    [example] = examples(tokenizer, {"messages": CHAT})
    assert learned(tokenizer, example) == ["a cat<|user|>", "it is"]
    assert turn_ends(tokenizer) == ["<|user|>"]
    assert template_notices(tokenizer) == []
    tokenizer.chat_template = "{% for m in messages %}<|mine|>{{ m.role }}: {{ m.content }}\n{% endfor %}"
    assert turn_ends(tokenizer) == []
    ends, marks = template_notices(tokenizer)
    assert "writes no special token behind an answer" in ends
    assert "writes <|mine|>, which is no token" in marks and "extra_special_tokens: ['<|mine|>']" in marks


YAML = """
name: talk
task: {type: chat, template_file: talk.jinja}
tokenizer: {type: byte_bpe, vocab_size: 320}
model: {type: decoder, num_layers: 1, hidden_dim: 48, num_heads: 4}
data:
  train: {type: jsonl, path: chats.jsonl, columns: {messages: dialogue}}
  validation_fraction: 0.1
  seq_len: 64
  num_workers: 1
optimizer: {type: adamw, learning_rate: 5e-3, schedule: {type: linear, warmup_steps: 5}}
training: {steps: 100, global_batch_size: 16, best_metric: loss, jit_compile: false}
generation: {prompts: [what is red 5], max_new_tokens: 12, temperature: 0.0}
"""
TALK = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
KNOWN = {"red": "cherry", "green": "leaf", "blue": "sky"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    rng = np.random.default_rng(0)
    with (folder / "chats.jsonl").open("w") as file:
        for _ in range(240):
            colours = rng.choice(list(KNOWN), size=rng.integers(1, 3))
            said = [text for each in colours for text in (f"what is {each} {rng.integers(99)}", KNOWN[each])]
            file.write(json.dumps({"dialogue": turns(*said)}) + "\n")
    (folder / "config.yaml").write_text(YAML)
    (folder / "talk.jinja").write_text(TALK)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "config.yaml"]) == 0
    return folder / "runs" / "talk"


def test_a_run_learns_to_answer_and_keeps_its_template(run, monkeypatch, capfd):
    lm = tfllm.load(run, jit_compile=False)
    assert lm.tokenizer.chat_template == TALK and lm.tells == "replies"
    asked = [f"what is {colour} {n}" for n, colour in enumerate(KNOWN)]
    assert lm.generate(asked, chat=True) == list(KNOWN.values())
    [sample] = sorted((run / "samples").iterdir())[-1:]
    assert "what is red 5│cherry" in sample.read_text()

    monkeypatch.chdir(run.parent.parent)
    rows = [{"dialogue": turns(asked[0])}, {"dialogue": turns(asked[1], "no", asked[2])}]
    (run.parent.parent / "new.jsonl").write_text("\n".join(map(json.dumps, rows)))
    capfd.readouterr()
    assert main(["predict", str(run), "new.jsonl"]) == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [line["written"] for line in lines] == ["cherry", "sky"]
    assert lines[0]["record"] == {"messages": rows[0]["dialogue"]}
    assert main(["inspect", "config.yaml", "--rows", "1"]) == 0
    told = capfd.readouterr().out
    assert "learns:" in told and "<|eos|>" in told and "learned:" not in told


def test_the_template_file_is_looked_at_before_anything_else(run, monkeypatch, capfd):
    monkeypatch.chdir(run.parent.parent)
    for content, words in (
        (None, "cannot be read (No such file or directory)"),
        ("{% if %}", "is no template"),
    ):
        path = run.parent.parent / "other.jinja"
        path.write_text(content) if content is not None else path.unlink(missing_ok=True)
        assert main(["train", "config.yaml", "task.template_file=other.jinja", "name=other"]) == 2
        said = capfd.readouterr().err
        assert "task.template_file=other.jinja" in said and words in said
    assert main(["train", "config.yaml", "task.template_file=null", "name=other"]) == 1
    assert "write the path of one in Jinja as task.template_file" in capfd.readouterr().err


def test_a_base_model_that_learns_to_chat_stops_at_the_end_of_a_turn(tmp_path):
    tiny_lm().save(tmp_path / "base")
    (tmp_path / "chatml.jinja").write_text(CHATML)
    mapping = {
        **yaml.safe_load(YAML),
        "task": {"type": "chat", "template_file": str(tmp_path / "chatml.jinja")},
        "tokenizer": {"type": "pretrained", "extra_special_tokens": list(SPECIAL["chatml"])},
        "model": {"type": "pretrained", "source": str(tmp_path / "base")},
    }
    config = expand(config_from_mapping(mapping))
    assert config.generation.stop_tokens == ("<|end|>", "<|im_end|>")
    named = {**mapping, "generation": {"stop_tokens": ["a"], "max_new_tokens": 4}}
    assert expand(config_from_mapping(named)).generation.stop_tokens == ("a",)


def test_how_texts_that_are_too_long_are_treated_is_the_tasks_to_say():
    config = {
        **yaml.safe_load(YAML),
        "data": {"train": {"type": "jsonl", "path": "a"}, "on_too_long": "cut_source"},
    }
    with pytest.raises(
        ConfigError, match=r"is not for task\.type=chat; write one of cut_oldest_turns, drop, error"
    ):
        config_from_mapping(config)

"""Files as somebody who means harm, or a broken disk, would write them: a small whole checkpoint, and ways to spoil it.

`CASES` maps what is wrong to a function that writes the files into a folder and returns what is to be loaded.
"""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

LAYERS, WIDTH, HEADS, FEED, VOCABULARY = 2, 16, 4, 32, 258
END, DEEP = "<|end|>", 200_000


@functools.cache
def byte_characters() -> tuple[str, ...]:
    """GPT-2's alphabet of bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    names = {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return tuple(names[byte] for byte in range(256))


def config() -> dict[str, Any]:
    """Of a small Llama."""
    return {
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": FEED,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "eos_token_id": 257,
    }


def tokenizer() -> dict[str, Any]:
    """A tokenizer.json of bytes, one merge and one special token."""
    vocab = {character: byte for byte, character in enumerate(byte_characters())}
    return {
        "added_tokens": [{"id": 257, "content": END, "special": True}],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {**vocab, "th": 256}, "merges": [["t", "h"]]},
    }


@functools.cache
def tensors() -> Mapping[str, np.ndarray]:
    """Its weights."""
    rng = np.random.default_rng(0)
    shapes = {"model.embed_tokens": (VOCABULARY, WIDTH), "model.norm": (WIDTH,)}
    for index in range(LAYERS):
        for name in ("q", "k", "v", "o"):
            shapes[f"model.layers.{index}.self_attn.{name}_proj"] = (WIDTH, WIDTH)
        for name in ("gate", "up"):
            shapes[f"model.layers.{index}.mlp.{name}_proj"] = (FEED, WIDTH)
        shapes[f"model.layers.{index}.mlp.down_proj"] = (WIDTH, FEED)
        for name in ("input", "post_attention"):
            shapes[f"model.layers.{index}.{name}_layernorm"] = (WIDTH,)
    return {f"{name}.weight": rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write_folder(folder: Path) -> Path:
    """The whole checkpoint, as transformers writes it."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config()))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": END}))
    save_file(dict(tensors()), folder / "model.safetensors")
    return folder


def text(value: str | bytes) -> bytes:
    """A text of GGUF."""
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def value_of(value: Any) -> bytes:
    """A value of GGUF with its type before it; bytes are as they are."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, bool):
        return struct.pack("<IB", 7, value)
    if isinstance(value, int):
        return struct.pack("<Ii", 5, value) if value < 2**31 else struct.pack("<IQ", 10, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    kind, entries = (
        (8, b"".join(map(text, value))) if isinstance(value[0], str) else (5, np.int32(value).tobytes())
    )
    return struct.pack("<IIQ", 9, kind, len(value)) + entries


def gguf_metadata() -> dict[str, Any]:
    """The keys of the same checkpoint as a GGUF file."""
    return {
        "general.architecture": "llama",
        "llama.block_count": LAYERS,
        "llama.context_length": 64,
        "llama.embedding_length": WIDTH,
        "llama.feed_forward_length": FEED,
        "llama.attention.head_count": HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [*byte_characters(), "th", END],
        "tokenizer.ggml.token_type": [*[1] * 257, 3],
        "tokenizer.ggml.merges": ["t h"],
        "tokenizer.ggml.eos_token_id": 257,
    }


_GGUF_NAMES = {
    **{"embed_tokens": "token_embd", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"},
    **{"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"},
    **{"self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"},
    "mlp.down_proj": "ffn_down",
}


def gguf_tensors() -> list[tuple[str, np.ndarray]]:
    """The weights under GGUF's names; rows of queries and keys stand as they are, which nobody here minds."""
    named = []
    for name, array in tensors().items():
        name = (
            name.replace("model.layers.", "blk.").replace("model.norm", "output_norm").replace("model.", "")
        )
        for theirs, own in _GGUF_NAMES.items():
            name = name.replace(theirs, own)
        named.append((name, array))
    return named


def gguf_bytes(
    metadata: Mapping[str, Any] | list[tuple[str | bytes, Any]],
    held: list[tuple[str, np.ndarray]],
    *,
    version: int = 3,
    keys: int | None = None,
    count: int | None = None,
    info: Callable[[str, list[int], int], bytes] | None = None,
) -> bytes:
    """A GGUF file; `keys` and `count` are what it says of their numbers, `info` writes a tensor's entry."""
    pairs = list(metadata.items()) if isinstance(metadata, Mapping) else metadata
    out = b"GGUF" + struct.pack(
        "<IQQ", version, len(held) if count is None else count, len(pairs) if keys is None else keys
    )
    out += b"".join(text(key) + value_of(value) for key, value in pairs)
    data, entries = b"", b""
    for name, array in held:
        dims = list(reversed(array.shape))
        entries += (info or tensor_info)(name, dims, len(data))
        data += array.tobytes() + b"\0" * (-array.nbytes % 32)
    out += entries
    return out + b"\0" * (-len(out) % 32) + data


def tensor_info(name: str, dims: list[int], offset: int, kind: int = 0) -> bytes:
    """The entry of a tensor."""
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


CASES: dict[str, Callable[[Path], Path]] = {}


def _config(name: str, **changes: Any) -> None:
    def write(folder: Path) -> Path:
        write_folder(folder)
        (folder / "config.json").write_text(json.dumps({**config(), **changes}))
        return folder

    CASES[f"config.json: {name}"] = write


def _file(name: str, file: str, content: Callable[[], str | bytes], remove: tuple[str, ...] = ()) -> None:
    def write(folder: Path) -> Path:
        write_folder(folder)
        for other in remove:
            (folder / other).unlink()
        made = content()
        (folder / file).write_bytes(made if isinstance(made, bytes) else made.encode())
        return folder

    CASES[f"{file}: {name}"] = write


def _tokenizer(name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    def content() -> str:
        held = tokenizer()
        change(held)
        return json.dumps(held)

    _file(name, "tokenizer.json", content)


def _gguf(name: str, make: Callable[[], bytes], file: str = "model.gguf") -> None:
    def write(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(make())
        return folder / file

    CASES[f"gguf: {name}"] = write


def _gguf_key(name: str, key: str, value: Any) -> None:
    """A value, or, where it is large, what makes it."""
    _gguf(
        name,
        lambda: gguf_bytes({**gguf_metadata(), key: value() if callable(value) else value}, gguf_tensors()),
    )


def _safetensors(name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    def write(folder: Path) -> Path:
        write_folder(folder)
        path = folder / "model.safetensors"
        data = path.read_bytes()
        size = struct.unpack("<Q", data[:8])[0]
        entries = json.loads(data[8 : 8 + size])
        change(entries)
        header = json.dumps(entries).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + size :])
        return folder

    CASES[f"model.safetensors: {name}"] = write


_DEEP = "[" * DEEP + "]" * DEEP
_config("10^9 layers", num_hidden_layers=10**9)
_config("10^9 layers that slide", model_type="mistral", num_hidden_layers=10**9)
_config("4000 layers", num_hidden_layers=4000)
_config("a width of 10^12", hidden_size=10**12)
_config("a width of 2^30", hidden_size=2**30)
_config("a vocabulary of 10^12", vocab_size=10**12)
_config("a vocabulary of 2^31-1", vocab_size=2**31 - 1)
_config("a feed-forward of 2^31-1", intermediate_size=2**31 - 1)
_config("2^31-1 heads", num_attention_heads=2**31 - 1)
_config("heads of 2^31-2", head_dim=2**31 - 2)
_config("a share of 1e308", partial_rotary_factor=1e308)
_config("an infinite base", rope_theta=float("inf"))
_config("a base of 0", rope_theta=0.0)
_config("a base of 400 digits", rope_theta=10**400)
_file(
    "10^6 unknown keys",
    "config.json",
    lambda: json.dumps({**config(), **{f"key{i}": 1 for i in range(10**6)}}),
)
_file(
    "an unknown key of 10^7 characters",
    "config.json",
    lambda: json.dumps({**config(), "x" * 10**7: "y" * 10**7}),
)
_config("the class is a mapping", architectures=[{"a": 1}], model_type="bert")
_config("eos_token_id is a mapping", eos_token_id={"a": 1})
_config("eos_token_id is a list of mappings", eos_token_id=[{"a": 1}])
_config("eos_token_id is 2^62", eos_token_id=2**62)
_config("eos_token_id is infinite", eos_token_id=float("inf"))
_file("nested 200,000 deep", "config.json", lambda: '{"model_type": "llama", "a": ' + _DEEP + "}")
_file(
    "nested 900 deep",
    "config.json",
    lambda: json.dumps(config())[:-1] + ', "a": ' + "[" * 900 + "]" * 900 + "}",
)
_file(
    "a number of 10^6 digits",
    "config.json",
    lambda: '{"model_type": "llama", "vocab_size": ' + "9" * 10**6 + "}",
)
_file("200 MB of blanks", "config.json", lambda: b" " * 200_000_000)
_file("nested 200,000 deep", "generation_config.json", lambda: '{"a": ' + _DEEP + "}")
_file("temperature is a list", "generation_config.json", lambda: '{"do_sample": true, "temperature": [1]}')
_file("max_new_tokens is text", "generation_config.json", lambda: '{"max_new_tokens": "x"}')
_file("max_new_tokens is infinite", "generation_config.json", lambda: '{"max_new_tokens": Infinity}')
_file("a list", "generation_config.json", lambda: "[]")
_file("nested 200,000 deep", "tokenizer.json", lambda: '{"model": ' + _DEEP + "}")
_file("nested 200,000 deep", "tokenizer_config.json", lambda: '{"added_tokens_decoder": ' + _DEEP + "}")
_tokenizer("an added id of 2^31-1", lambda held: held["added_tokens"][0].update(id=2**31 - 1))
_tokenizer("an added id of 2^62", lambda held: held["added_tokens"][0].update(id=2**62))
_tokenizer("a negative added id", lambda held: held["added_tokens"][0].update(id=-1))
_tokenizer("an added id of 5", lambda held: held["added_tokens"][0].update(id=5))
_tokenizer("an id of 2^62", lambda held: held["model"]["vocab"].update(th=2**62))
_tokenizer("an id of 2^31-1", lambda held: held["model"]["vocab"].update(th=2**31 - 1))
_tokenizer("an id twice", lambda held: held["model"]["vocab"].update(th=5))
_tokenizer("a negative id", lambda held: held["model"]["vocab"].update(th=-5))
_tokenizer("an id in words", lambda held: held["model"]["vocab"].update(th="x"))
_tokenizer("an infinite id", lambda held: held["model"]["vocab"].update(th=float("inf")))
_tokenizer("half a surrogate", lambda held: held["model"]["vocab"].update({"\ud800": 300}))
_tokenizer("a merge of three", lambda held: held["model"]["merges"].append(["a", "b", "c"]))
_tokenizer("a merge of numbers", lambda held: held["model"]["merges"].append([1, 2]))
_tokenizer("a merge twice, 10^6 times", lambda held: held["model"]["merges"].extend([["t", "h"]] * 10**6))
_tokenizer("a vocabulary that is a list", lambda held: held["model"].update(vocab=[["a", 0.0]]))
_tokenizer("added tokens that are numbers", lambda held: held.update(added_tokens=5))
_tokenizer(
    "a pattern that never ends",
    lambda held: held.update(
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }
    ),
)
_tokenizer(
    "a damaged table of characters",
    lambda held: held.update(
        model={"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]]},
        normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAAAQ=="},
    ),
)
_tokenizer(
    "a unigram without pieces", lambda held: held.update(model={"type": "Unigram", "unk_id": 7, "vocab": []})
)
_tokenizer(
    "a post-processor of numbers",
    lambda held: held.update(post_processor={"type": "TemplateProcessing", "single": 5}),
)
_file("damaged", "tokenizer.model", lambda: b"\x0a\xff\xff\xff\xff\x0f" * 20, ("tokenizer.json",))
_file("of a length of 2^63", "model.safetensors", lambda: struct.pack("<Q", 2**63) + b"{}")
_file("of a header of 10^9 bytes", "model.safetensors", lambda: struct.pack("<Q", 10**9) + b"{" * 1000)
_file(
    "nested 200,000 deep",
    "model.safetensors",
    lambda: (lambda h: struct.pack("<Q", len(h)) + h)(('{"a": ' + _DEEP + "}").encode()),
)
_file("empty", "model.safetensors", lambda: b"")
_safetensors(
    "shapes that overflow", lambda held: held["model.norm.weight"].update(shape=[2**32, 2**32, 2**32])
)
_safetensors(
    "offsets out of the file", lambda held: held["model.norm.weight"].update(data_offsets=[2**40, 2**40 + 64])
)
_safetensors("negative offsets", lambda held: held["model.norm.weight"].update(data_offsets=[-64, 0]))
_safetensors("an unknown type", lambda held: held["model.norm.weight"].update(dtype="F31"))
_safetensors("no offsets", lambda held: held["model.norm.weight"].pop("data_offsets"))
_safetensors(
    "10^5 empty tensors",
    lambda held: held.update(
        {f"x{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(10**5)}
    ),
)
_file(
    "nested 200,000 deep",
    "model.safetensors.index.json",
    lambda: '{"weight_map": ' + _DEEP + "}",
    ("model.safetensors",),
)
_file(
    "a file outside",
    "model.safetensors.index.json",
    lambda: '{"weight_map": {"a": "../../etc/passwd"}}',
    ("model.safetensors",),
)
_file(
    "a name of 10^5 characters",
    "model.safetensors.index.json",
    lambda: json.dumps({"weight_map": {"a": "x" * 10**5 + ".safetensors"}}),
    ("model.safetensors",),
)
_file(
    "a file that is missing, 10^5 times",
    "model.safetensors.index.json",
    lambda: json.dumps({"weight_map": {f"t{i}": f"{i}.safetensors" for i in range(10**5)}}),
    ("model.safetensors",),
)

_gguf("2^60 keys", lambda: gguf_bytes(gguf_metadata(), gguf_tensors(), keys=2**60))
_gguf("2^60 tensors", lambda: gguf_bytes(gguf_metadata(), gguf_tensors(), count=2**60))
_gguf(
    "10^6 keys without end",
    lambda: (
        b"GGUF"
        + struct.pack("<IQQ", 3, 0, 10**6)
        + b"".join(text(f"k{i}") + struct.pack("<IB", 0, 1) for i in range(10**6))
    ),
)
_gguf_key("a list of 2^60", "llama.x", struct.pack("<IIQ", 9, 4, 2**60))
_gguf_key("a list of 2^60 texts", "llama.x", struct.pack("<IIQ", 9, 8, 2**60))
_gguf_key(
    "a list of 3 * 10^7 numbers", "llama.x", lambda: struct.pack("<IIQ", 9, 0, 3 * 10**7) + b"\1" * 3 * 10**7
)
_gguf_key(
    "a list of 3 * 10^7 empty texts",
    "llama.x",
    lambda: struct.pack("<IIQ", 9, 8, 3 * 10**7) + b"\0" * 24 * 10**7,
)
_gguf_key(
    "a list of 4 * 10^6 numbers", "llama.x", lambda: struct.pack("<IIQ", 9, 0, 4 * 10**6) + b"\1" * 4 * 10**6
)
_gguf_key(
    "lists nested 100,000 deep",
    "llama.x",
    lambda: struct.pack("<I", 9) + (struct.pack("<IQ", 9, 1)) * 10**5 + struct.pack("<IQB", 0, 1, 1),
)
_gguf_key("a text of 2^63", "llama.x", struct.pack("<IQ", 8, 2**63))
_gguf_key("a text of 200 MB", "llama.x", lambda: "x" * 200_000_000)
_gguf_key("a text that is not UTF-8", "llama.x", struct.pack("<IQ", 8, 2) + b"\xff\xfe")
_gguf_key("an unknown type of value", "llama.x", struct.pack("<II", 77, 0))
_gguf_key("an unknown type in a list", "llama.x", struct.pack("<IIQ", 9, 77, 3))
_gguf_key("a truth of 7", "llama.x", struct.pack("<IB", 7, 7))
_gguf("a key twice", lambda: gguf_bytes([*gguf_metadata().items(), ("llama.block_count", 2)], gguf_tensors()))
_gguf("a key that is not UTF-8", lambda: gguf_bytes([*gguf_metadata().items(), (b"\xff", 2)], gguf_tensors()))
_gguf("version 1", lambda: gguf_bytes(gguf_metadata(), gguf_tensors(), version=1))
_gguf("version 99", lambda: gguf_bytes(gguf_metadata(), gguf_tensors(), version=99))
_gguf("big-endian", lambda: b"GGUF" + struct.pack(">IQQ", 3, 0, 0))
_gguf("a tensor twice", lambda: gguf_bytes(gguf_metadata(), [*gguf_tensors(), gguf_tensors()[1]]))
for _name, _info in {
    "9 dimensions": lambda name, dims, at: tensor_info(name, [*dims, *[1] * 9][:9], at),
    "2^31 dimensions": lambda name, dims, at: text(name) + struct.pack("<I", 2**31),
    "sizes of 2^63": lambda name, dims, at: tensor_info(name, [2**63, 2**63], at),
    "sizes of 0": lambda name, dims, at: tensor_info(name, [0] * len(dims), at),
    "no dimensions": lambda name, dims, at: tensor_info(name, [], at),
    "offsets of 2^60": lambda name, dims, at: tensor_info(name, dims, 2**60),
    "offsets that are odd": lambda name, dims, at: tensor_info(name, dims, at + 1),
    "all in one place": lambda name, dims, at: tensor_info(name, dims, 0),
    "an unknown type": lambda name, dims, at: tensor_info(name, dims, at, 999),
    "blocks that do not fit": lambda name, dims, at: tensor_info(name, dims, at, 8),
}.items():
    _gguf(f"tensors with {_name}", functools.partial(gguf_bytes, gguf_metadata(), gguf_tensors(), info=_info))
for _key, _value in {
    "llama.block_count": 10**9,
    "llama.embedding_length": 2**31 - 1,
    "llama.attention.head_count": 0,
    "llama.attention.head_count_kv": 3,
    "llama.rope.freq_base": "x",
    "llama.rope.dimension_count": "x",
    "llama.context_length": -1,
    "general.alignment": 3,
    "general.architecture": 7,
    "split.count": 2**20,
    "tokenizer.ggml.eos_token_id": 2**31 - 1,
    "tokenizer.ggml.bos_token_id": "x",
    "tokenizer.ggml.tokens": [1, 2],
    "tokenizer.ggml.token_type": ["x"] * 258,
    "tokenizer.ggml.merges": [1, 2],
    "tokenizer.chat_template": 5,
}.items():
    _gguf_key(f"{_key} is {str(_value)[:20]}", _key, _value)
_gguf(
    "a base of text beside factors",
    lambda: gguf_bytes(
        {**gguf_metadata(), "llama.rope.freq_base": "x"},
        [*gguf_tensors(), ("rope_freqs.weight", np.ones(2, np.float32))],
    ),
)
_gguf(
    "factors of 0",
    lambda: gguf_bytes(gguf_metadata(), [*gguf_tensors(), ("rope_freqs.weight", np.zeros(2, np.float32))]),
)
_gguf(
    "too many factors",
    lambda: gguf_bytes(gguf_metadata(), [*gguf_tensors(), ("rope_freqs.weight", np.full(9, 2, np.float32))]),
)

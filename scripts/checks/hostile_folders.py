"""Checkpoint folders as somebody who means harm, or a broken disk, would write them.

`CASES` maps what is wrong to a function that writes the files into a folder and returns what is to be loaded.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.checks.small_llama import config, tokenizer, write_folder

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


_DEPTH = 200_000
_DEEP = "[" * _DEPTH + "]" * _DEPTH
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

"""Chats beside transformers', which is asked live: ids, and the tokens that `{% generation %}` marks."""

import json
import os
import random
import subprocess

import pytest

from tests.tokenizers.test_chat_contents import CHATML, PARTS, THINKING
from tfllm.tokenizers import ByteBPETokenizer
from tfllm.tokenizers.chat import encode_chat, encode_prompt

PEERS = os.environ.get("TFLLM_PEERS")
MARKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n{% generation %}{{ m.content }}<|im_end|>"
    "{% endgeneration %}\n{% else %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endif %}{% endfor %}"
)
TEMPLATES = {"chatml": CHATML, "thinking": THINKING, "parts": PARTS, "marked": MARKED}
# No name of a control token among them, though much that is part of one.
WORDS = [
    "hello",
    "the",
    " ",
    "\n",
    "  ",
    "i",
    "think",
    "<think>",
    "</think>",
    "é",
    "漢字",
    "<",
    "|",
    ">",
    "im_end",
    "<|",
]
WORDS += ["{", "}", '"', "'", "user", "assistant", "ﬁ", "\u0301", "😀", "\t"]
SCRIPT = """
import json, sys
from transformers import PreTrainedTokenizerFast
tokenizer = PreTrainedTokenizerFast.from_pretrained(sys.argv[1])
asked = json.load(open(sys.argv[2]))
def ids(chat, source):
    return tokenizer.apply_chat_template(chat, chat_template=source, add_generation_prompt=True, tokenize=True, return_dict=False)
def mask(chat):
    arguments = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
    return tokenizer.apply_chat_template(chat, chat_template=asked["templates"]["marked"], **arguments)["assistant_masks"]
made = [{**{n: ids(chat, s) for n, s in asked["templates"].items()}, "mask": mask(chat)} for chat in asked["chats"]]
print(json.dumps(made))
"""


@pytest.mark.skipif(PEERS is None, reason="TFLLM_PEERS is not set")
def test_chats_that_name_no_control_token_have_transformers_ids_and_masks(tmp_path):
    tokenizer = ByteBPETokenizer.train(
        [CHATML, THINKING] * 3, vocab_size=400, eos_token="<|im_end|>", extra_special_tokens=["<|im_start|>"]
    )
    tokenizer.save(tmp_path)
    draw = random.Random(0)
    chats = [
        [
            {
                "role": ["user", "assistant"][i % 2],
                "content": "".join(draw.choices(WORDS, k=draw.randint(0, 8))),
            }
            for i in range(draw.randint(1, 6))
        ]
        for _ in range(100)
    ]
    (tmp_path / "asked.json").write_text(json.dumps({"chats": chats, "templates": TEMPLATES}))
    command = [PEERS, "-c", SCRIPT, str(tmp_path), str(tmp_path / "asked.json")]
    theirs = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    for chat, expected in zip(chats, theirs, strict=True):
        for name, source in TEMPLATES.items():
            tokenizer.chat_template = source
            assert encode_prompt(tokenizer, chat) == expected[name], (name, chat)
        assert [int(answer) for answer in encode_chat(tokenizer, chat)[1]] == expected["mask"], chat

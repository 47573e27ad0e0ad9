"""What transformers computes for `real_models.py`: reads JSON, writes JSON. Needs torch and transformers."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import transformers

NEW_TOKENS = 64


def chat(folder: str, chats: list[list[dict[str, str]]]) -> dict[str, Any]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompts, answers = [], []
    for messages in chats:
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        new = model.generate(torch.tensor([ids]), max_new_tokens=NEW_TOKENS)[0, len(ids) :]
        prompts.append(ids)
        answers.append(tokenizer.decode(new, skip_special_tokens=True))
    return {"prompts": prompts, "answers": answers}


def embed(folder: str, texts: list[str]) -> dict[str, Any]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    vectors = []
    with torch.no_grad():
        for text in texts:
            inputs = tokenizer(text, truncation=True, max_length=512, return_tensors="pt")
            mean = model(**inputs).last_hidden_state[0].mean(0)
            vectors.append((mean / mean.norm()).tolist())
    return {"vectors": vectors}


if __name__ == "__main__":
    content = json.load(sys.stdin)
    print(json.dumps(chat(sys.argv[2], content) if sys.argv[1] == "chat" else embed(sys.argv[2], content)))

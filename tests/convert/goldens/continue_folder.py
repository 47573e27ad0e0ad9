"""Opens a folder as transformers does, and prints its greedy continuations of the prompts of `cases.py`, as JSON.

python tests/convert/goldens/continue_folder.py FOLDER
"""

from __future__ import annotations

import json
import os
import sys

folder = sys.argv[1]
sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

import torch
import transformers

from tests.convert.goldens.cases import NEW_TOKENS, prompts
from tests.convert.goldens.encoder_decoder_cases import sources

tokens, mask = map(torch.from_numpy, prompts())
config = transformers.AutoConfig.from_pretrained(folder)
kinds = transformers.AutoModelForCausalLM, transformers.AutoModelForSeq2SeqLM
model, report = kinds[bool(config.is_encoder_decoder)].from_pretrained(
    folder, attn_implementation="eager", output_loading_info=True
)
model.generation_config = transformers.GenerationConfig(eos_token_id=None, pad_token_id=0)
begin = tokens.shape[1]
if config.is_encoder_decoder:
    tokens, mask = map(torch.from_numpy, sources())
    model.generation_config.decoder_start_token_id = config.decoder_start_token_id
    model.generation_config.use_cache = False  # as in make_goldens.py
    begin = 1
new = model.generate(
    input_ids=tokens,
    attention_mask=mask,
    do_sample=False,
    max_new_tokens=NEW_TOKENS,
    min_new_tokens=NEW_TOKENS,
)
unfitting = {kind: [str(name) for name in names] for kind, names in report.items() if names}
print(json.dumps({"generated": new[:, begin:].tolist(), "unfitting": unfitting}))

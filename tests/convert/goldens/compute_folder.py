"""Opens a folder as transformers does, computes the batch of a case of `encoder_cases.py`, and writes it as .npz.

python tests/convert/goldens/compute_folder.py FOLDER CASE RESULT
"""

from __future__ import annotations

import json
import os
import sys

folder, case, result = sys.argv[1:]
sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

import numpy as np
import torch
import transformers

from tests.convert.goldens.encoder_goldens import outputs

kind = getattr(transformers, transformers.AutoConfig.from_pretrained(folder).architectures[0])
model, report = kind.from_pretrained(folder, attn_implementation="eager", output_loading_info=True)
unfitting = {what: sorted(map(str, names)) for what, names in report.items() if names}
with torch.no_grad():
    found = {key: value.numpy() for key, value in outputs(model.eval(), case).items()}
np.savez(result, unfitting=np.array(json.dumps(unfitting)), **found)

import inspect
import textwrap
import types

import keras
import pytest
from export_case import CASES, DEFAULTS, LIMIT, Case, tiny_model

from tfllm.export.saved_model import export_saved_model
from tfllm.generation.generate import Generator
from tfllm.tokenizers import ByteBPETokenizer, ByteTokenizer


@pytest.fixture(scope="session", params=CASES)
def case(request, tmp_path_factory):
    keras.utils.set_random_seed(0)
    if request.param.startswith("byte,"):
        tokenizer = ByteTokenizer()
        model = tiny_model(
            tokenizer, positions="learned", norm="layer_norm", activation="gelu", use_bias=True
        )
    else:
        tokenizer = ByteBPETokenizer.train([inspect.getsource(textwrap)], vocab_size=400)
        model = tiny_model(tokenizer, num_kv_heads=2, tie_embeddings=False)
    stops = sorted({tokenizer.eos_id, tokenizer.bos_id, tokenizer.pad_id})
    folder = tmp_path_factory.mktemp("export")
    path = export_saved_model(
        model, tokenizer, folder, generation=types.SimpleNamespace(**DEFAULTS), max_new_tokens=LIMIT
    )
    # Without XLA it compiles faster; one test compares with XLA.
    generator = Generator(model, stop_ids=stops, pad_id=tokenizer.pad_id, jit_compile=False)
    return Case(tokenizer=tokenizer, model=model, path=path, generator=generator)

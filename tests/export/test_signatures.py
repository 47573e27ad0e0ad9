import numpy as np
import pytest
import tensorflow as tf
from export_case import CASES, CONTEXT, DEFAULTS, LIMIT, PROMPTS, Case

from tfllm.generation.generate import Generator

DTYPES = {"max_new_tokens": tf.int32, "top_k": tf.int32, "seed": tf.int32}


@pytest.fixture(scope="module")
def loaded(case):
    return tf.saved_model.load(str(case.path))


def generate(loaded, prompts, **settings):
    """Calls the signature; a setting is one value, or one a row."""
    inputs = {"prompt": tf.constant(np.array(prompts, dtype=object), tf.string, shape=[len(prompts)])}
    for name, value in {**DEFAULTS, **settings}.items():
        values = np.broadcast_to(np.array(value), [len(prompts)])
        inputs[name] = tf.constant(values, DTYPES.get(name, tf.float32))
    return {name: x.numpy() for name, x in loaded.signatures["generate"](**inputs).items()}


def texts(outputs):
    return [text.decode() for text in outputs["text"]]


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.0},
        {"temperature": 0.0, "repetition_penalty": 1.3, "max_new_tokens": LIMIT},
        pytest.param({"seed": 0, "repetition_penalty": 1.0}, marks=pytest.mark.slow),
        {"seed": 1, "top_k": 20, "top_p": 1.0, "temperature": 1.5},
        pytest.param({"seed": 2**31 - 1, "top_p": 0.5, "top_k": 40}, marks=pytest.mark.slow),
    ],
)
def test_texts_are_those_of_the_live_model(case, loaded, settings):
    outputs = generate(loaded, PROMPTS, **settings)
    expected = case.live(PROMPTS, **{**DEFAULTS, **settings})
    assert texts(outputs) == expected
    assert len(set(expected)) > 1 and any(expected)


@pytest.mark.parametrize("case", [CASES[1]], indirect=True)
def test_texts_are_those_of_the_live_model_under_xla(case, loaded):
    stop_ids = sorted({case.tokenizer.eos_id, case.tokenizer.bos_id, case.tokenizer.pad_id})
    generator = Generator(case.model, stop_ids=stop_ids, pad_id=case.tokenizer.pad_id)
    compiled = Case(tokenizer=case.tokenizer, generator=generator)
    for seed in range(3):
        assert texts(generate(loaded, PROMPTS, seed=seed)) == compiled.live(
            PROMPTS, **{**DEFAULTS, "seed": seed}
        )


def test_the_default_signature_uses_the_defaults(case, loaded):
    outputs = loaded.signatures["serving_default"](prompt=tf.constant(np.array(PROMPTS, dtype=object)))
    assert [text.decode() for text in outputs["text"].numpy()] == case.live(PROMPTS, **DEFAULTS)


def test_rows_do_not_depend_on_their_neighbours(loaded):
    prompts = ["a", "", "A much longer prompt 🤗" * 5, "def wrap"]
    settings = {
        "max_new_tokens": [LIMIT, 1, 5, 9],
        "temperature": [0.7, 0.0, 1.2, 0.9],
        "top_k": [0, 3, 10, 0],
        "top_p": [1.0, 0.5, 0.9, 1.0],
        "repetition_penalty": [1.0, 2.0, 1.1, 1.0],
        "seed": [1, 2, 3, 4],
    }
    together = generate(loaded, prompts, **settings)
    for row, prompt in enumerate(prompts):
        alone = generate(loaded, [prompt], **{name: values[row] for name, values in settings.items()})
        assert {name: x[0] for name, x in alone.items()} == {name: x[row] for name, x in together.items()}


def test_a_full_row_survives_a_neighbour_that_goes_on(loaded):
    """Its positions would pass the context, and learned ones end there."""
    full = "x" * (2 * CONTEXT)
    outputs = generate(loaded, [full, "b"], max_new_tokens=[1, LIMIT], temperature=0.0)
    assert texts(outputs)[0] == texts(generate(loaded, [full], max_new_tokens=1, temperature=0.0))[0]


def test_a_long_prompt_keeps_its_end(case, loaded):
    prompt = "".join(f"{i} and " for i in range(60))
    ids = [case.tokenizer.bos_id, *case.tokenizer.encode(prompt)]
    outputs = generate(loaded, [prompt, "short"], max_new_tokens=[10, 4], temperature=0.0)
    assert outputs["prompt_tokens_dropped"].tolist() == [len(ids) - (CONTEXT - 10), 0]
    (expected,) = case.generator(
        [ids[-(CONTEXT - 10) :]],
        max_new_tokens=10,
        **{**{k: v for k, v in DEFAULTS.items() if k != "max_new_tokens"}, "temperature": 0.0},
    )
    assert texts(outputs)[0] == case.tokenizer.decode(expected)
    assert outputs["num_tokens"][0] == len(expected)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ({"max_new_tokens": 10**6}, {"max_new_tokens": LIMIT}),
        ({"max_new_tokens": -3}, {"max_new_tokens": 1}),
        ({"temperature": -1.0}, {"temperature": 0.0}),
        ({"temperature": float("nan")}, {"temperature": 0.0}),
        ({"top_k": -7}, {"top_k": 0}),
        ({"top_p": 7.0}, {"top_p": 1.0}),
        ({"top_p": 0.0}, {"temperature": 0.0}),
        ({"top_p": float("nan")}, {"temperature": 0.0}),
        ({"repetition_penalty": 0.0}, {"repetition_penalty": 1e-4}),
        ({"repetition_penalty": float("inf")}, {"repetition_penalty": 1e4}),
    ],
)
def test_settings_out_of_range_are_moved_into_it(loaded, wrong, meant):
    prompts = ["one", "two"]
    assert texts(generate(loaded, prompts, **wrong)) == texts(generate(loaded, prompts, **meant))


def test_bytes_that_are_not_text_are_repaired(case, loaded):
    prompts = [b"\xff\xfe", "half \U0001f917".encode()[:-2], b"\x00ok"]
    assert texts(generate(loaded, prompts)) == case.live(prompts, **DEFAULTS)


def test_an_empty_batch(loaded):
    outputs = generate(loaded, [])
    assert {name: x.shape for name, x in outputs.items()} == dict.fromkeys(outputs, (0,))


def test_every_tensor_has_the_batch_first(loaded):
    function = loaded.signatures["generate"]
    _, inputs = function.structured_input_signature
    assert {name: spec.dtype for name, spec in inputs.items()} == {
        "prompt": tf.string,
        **{name: DTYPES.get(name, tf.float32) for name in DEFAULTS},
    }
    outputs = function.structured_outputs
    assert {name: spec.dtype for name, spec in outputs.items()} == {
        "text": tf.string,
        "num_tokens": tf.int32,
        "prompt_tokens_dropped": tf.int32,
    }
    assert all(spec.shape.as_list() == [None] for spec in (*inputs.values(), *outputs.values()))

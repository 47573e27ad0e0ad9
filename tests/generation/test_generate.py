import numpy as np
import pytest
import tensorflow as tf

from tests.tiny import tiny_decoder
from tfllm.generation.errors import GenerationError
from tfllm.generation.generate import Generator, bucket, generate_tokens, left_padded, to_left_padded
from tfllm.generation.samplers import Sampling

V, CONTEXT = 23, 48
PROMPTS = [[3, 4, 5, 6, 7], [9], [1, 2, 3]]


@pytest.fixture(scope="module")
def model():
    return tiny_decoder(num_layers=2, num_kv_heads=2)


@pytest.fixture(scope="module")
def generator(model):
    """Never stops by itself."""
    return Generator(model, stop_ids=[], pad_id=0, jit_compile=False)


def assert_greedy(model, prompt, row):
    """Each token is the argmax of the uncached model after all that stands before it."""
    ids = [*prompt, *row]
    likeliest = np.argmax(model({"token_ids": tf.constant([ids])})["logits"][0], -1)
    assert list(row) == likeliest[len(prompt) - 1 : -1].tolist()


GREEDY = {"temperature": 0.0, "max_new_tokens": 12}


def test_greedy_is_the_argmax_of_the_uncached_model(model, generator):
    rows = generator(PROMPTS, **GREEDY)
    for prompt, row in zip(PROMPTS, rows, strict=True):
        assert_greedy(model, prompt, row)
        assert len(row) == 12
        assert len(set(row)) > 3
    assert len(set(map(tuple, rows))) == 3


def test_learned_positions_count_from_the_prompt_not_from_its_padding():
    model = tiny_decoder(positions="learned")
    generator = Generator(model, stop_ids=[], pad_id=0, jit_compile=False)
    for prompt, row in zip(PROMPTS, generator(PROMPTS, **GREEDY), strict=True):
        assert_greedy(model, prompt, row)


def test_a_row_alone_is_the_row_in_a_batch(generator):
    settings = {"max_new_tokens": 14, "temperature": 1.5, "top_k": 9, "top_p": 0.9, "repetition_penalty": 1.2}
    together = generator(PROMPTS, seed=[7, 8, 9], **settings)
    alone = [
        generator([prompt], seed=seed, **settings)[0] for prompt, seed in zip(PROMPTS, [7, 8, 9], strict=True)
    ]
    assert together == alone
    assert generator(PROMPTS, seed=[7, 8, 9], **settings) == together
    assert generator(PROMPTS, seed=[8, 9, 10], **settings) != together


def test_a_stop_token_ends_its_row_only(model, generator):
    free = generator(PROMPTS, **GREEDY)
    stop = next(token for token in free[0][2:] if token not in free[0][:2])
    stopping = Generator(model, stop_ids=[stop, V - 1], pad_id=0, jit_compile=False)
    expected = []
    for row in free:
        ends = [i for i, token in enumerate(row) if token in (stop, V - 1)]
        expected.append(row[: ends[0]] if ends else row)
    assert stopping(PROMPTS, **GREEDY) == expected
    assert len(expected[0]) < 12
    assert max(map(len, expected)) > len(expected[0])


def sampling(rows, temperature=0.0):
    return Sampling(
        temperature=tf.fill([rows], temperature),
        top_k=tf.zeros([rows], tf.int32),
        top_p=tf.ones([rows]),
        repetition_penalty=tf.ones([rows]),
        seed=tf.range(rows),
    )


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_limits_belong_to_their_row(positions):
    """A long prompt with a short limit beside a short one that goes on past the context of the first."""
    model = tiny_decoder(positions=positions)
    prompts, limits = [list(range(1, 23)) * 2, [3], [4, 5]], [4, 8, 6]
    ids, mask = left_padded(prompts, 44, pad_id=0)
    tokens, lengths = generate_tokens(
        model,
        tf.constant(ids),
        tf.constant(mask),
        max_new_tokens=tf.constant(limits),
        num_new=8,
        sampling=sampling(3),
        stop_ids=[],
        pad_id=0,
    )
    np.testing.assert_array_equal(lengths, limits)
    for prompt, row, limit in zip(prompts, tokens.numpy(), limits, strict=True):
        assert_greedy(model, prompt, row[:limit].tolist())
        assert not row[limit:].any()


def test_the_repetition_penalty_sees_prompt_and_continuation(generator):
    (row,) = generator([[5, 6]], max_new_tokens=12, temperature=0.0, repetition_penalty=1e6)
    # So strong a penalty forbids every token that stood before, as long as a logit above zero is left.
    assert len({5, 6, *row[:6]}) == 8


def test_padding_moves_left_and_tokens_keep_their_order():
    ids = tf.constant([[1, 2, 0, 0], [0, 3, 0, 4], [5, 6, 7, 8], [0, 0, 0, 9]])
    mask = tf.constant([[1, 1, 0, 0], [0, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 1]]) == 1
    moved, moved_mask = to_left_padded(ids, mask)
    np.testing.assert_array_equal(moved, [[0, 0, 1, 2], [0, 0, 3, 4], [5, 6, 7, 8], [0, 0, 0, 9]])
    np.testing.assert_array_equal(moved_mask, np.array(moved) != 0)


def test_a_zero_may_be_a_token():
    moved, mask = to_left_padded(tf.constant([[0, 0, 7]]), tf.constant([[True, True, False]]))
    assert moved.numpy().tolist() == [[7, 0, 0]]
    assert mask.numpy().tolist() == [[False, True, True]]


def test_lengths_share_a_bucket_and_do_not_retrace():
    generator = Generator(tiny_decoder(), stop_ids=[], pad_id=0, jit_compile=False)
    generator([[1, 2, 3]], max_new_tokens=5)
    assert generator.num_traces == 1
    for length, count, temperature in ((1, 16, 0.0), (16, 2, 1.3), (9, 9, 0.5)):
        (row,) = generator([list(range(1, length + 1))], max_new_tokens=count, temperature=temperature)
        assert len(row) == count
    assert generator.num_traces == 1
    assert [bucket(n) for n in (1, 16, 17, 32, 33, 1000)] == [16, 16, 32, 32, 64, 1024]


def test_a_bucket_may_exceed_the_context():
    generator = Generator(tiny_decoder(), stop_ids=[], pad_id=0, jit_compile=False)
    prompt = list(range(1, 20)) + [1] * 19
    assert len(generator([prompt], max_new_tokens=CONTEXT - len(prompt), temperature=0.0)[0]) == 10


def test_tokens_are_the_same_under_xla(model, generator):
    compiled = Generator(model, stop_ids=[], pad_id=0, jit_compile=True)
    for settings in (GREEDY, {**GREEDY, "temperature": 1.0, "top_p": 0.8, "seed": 3}):
        assert compiled(PROMPTS, **settings) == generator(PROMPTS, **settings)
    assert compiled.num_traces == 1


@pytest.mark.parametrize(
    ("prompts", "settings", "words"),
    [
        (PROMPTS, {"max_new_tokens": 0}, "max_new_tokens=0 must be at least 1"),
        (PROMPTS, {"temperature": -0.1}, "temperature=-0.1 must be at least 0"),
        (PROMPTS, {"temperature": float("nan")}, "temperature=nan must be at least 0"),
        (PROMPTS, {"top_k": -1}, "top_k=-1 must be at least 0; 0 keeps all"),
        (PROMPTS, {"top_p": 0.0}, r"top_p=0.0 must be in \(0, 1\]"),
        (PROMPTS, {"top_p": 1.1}, r"top_p=1.1 must be in \(0, 1\]"),
        (PROMPTS, {"repetition_penalty": 0.0}, "repetition_penalty=0.0 must be above 0"),
        (PROMPTS, {"seed": 2**31}, "seed=2147483648 must be from -2147483648 to 2147483647"),
        (PROMPTS, {"seed": [1, 2]}, "seed.* 2 for 3 prompts"),
        ([[1], [2, -1]], {}, "prompt 2 holds the id -1"),
        ([[1], []], {}, "prompt 2 has no tokens; start it with the tokenizer's bos_id"),
        ([[1] * 40], {"max_new_tokens": 9}, "context of 48; write max_new_tokens=8 or less"),
        ([[1] * 48], {"max_new_tokens": 1}, "prompt 1 has 48 tokens.*shorten the prompt"),
    ],
)
def test_what_cannot_be_generated_is_told(generator, prompts, settings, words):
    with pytest.raises(GenerationError, match=words):
        generator(prompts, **{"max_new_tokens": 4, **settings})


def test_no_prompts_are_no_continuations(generator):
    assert generator([]) == []

import numpy as np
import pytest
import tensorflow as tf

from tfllm.generation import samplers
from tfllm.generation.samplers import Sampling, sample

V = 12
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=[V]).astype(np.float32) * 1.5


def settings(rows, temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0, seed=None):
    def column(value, dtype):
        return tf.constant(np.broadcast_to(value, [rows]), dtype)

    return Sampling(
        temperature=column(temperature, tf.float32),
        top_k=column(top_k, tf.int32),
        top_p=column(top_p, tf.float32),
        repetition_penalty=column(repetition_penalty, tf.float32),
        seed=column(np.arange(rows) if seed is None else seed, tf.int32),
    )


def draws(rows=4000, logits=LOGITS, seen=None, index=3, **values):
    logits = np.broadcast_to(logits, [rows, V]).astype(np.float32)
    seen = np.zeros([rows, V], bool) if seen is None else np.broadcast_to(seen, [rows, V])
    return sample(
        tf.constant(logits), tf.constant(seen), tf.constant(index), settings(rows, **values)
    ).numpy()


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def assert_drawn_from(probabilities, tokens):
    counts = np.bincount(tokens, minlength=V)
    assert not counts[probabilities == 0].any()
    expected = probabilities * len(tokens)
    used = expected > 0
    chi_square = ((counts - expected)[used] ** 2 / expected[used]).sum()
    free = used.sum() - 1
    assert chi_square < free + 5 * np.sqrt(2 * free) + 5, (counts, expected)


def only(probabilities, kept):
    kept_probabilities = np.where(kept, probabilities, 0)
    return kept_probabilities / kept_probabilities.sum()


def test_draws_follow_the_softmax():
    assert_drawn_from(softmax(LOGITS), draws())
    with pytest.raises(AssertionError):
        assert_drawn_from(softmax(LOGITS * 1.1), draws())


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_divides_the_logits(temperature):
    assert_drawn_from(softmax(LOGITS / temperature), draws(temperature=temperature))


def test_temperature_zero_takes_the_likeliest():
    assert set(draws(rows=50, temperature=0.0)) == {LOGITS.argmax()}
    assert set(draws(rows=50, temperature=1e-4)) == {LOGITS.argmax()}


@pytest.mark.parametrize("top_k", [1, 3, V, V + 5])
def test_top_k_keeps_the_k_likeliest(top_k):
    kept = np.isfinite(samplers._within_top_k(tf.constant(LOGITS[None]), tf.constant([top_k])))[0]
    assert set(np.flatnonzero(kept)) == set(np.argsort(-LOGITS)[:top_k])
    assert_drawn_from(only(softmax(LOGITS), kept), draws(top_k=top_k))


def reference_top_p(logits, top_p):
    """The smallest set of likeliest tokens with at least this much probability (float64)."""
    probabilities = softmax(logits.astype(np.float64))
    order = np.argsort(-probabilities)
    size = np.searchsorted(np.cumsum(probabilities[order]), top_p) + 1
    kept = np.zeros(len(logits), bool)
    kept[order[:size]] = True
    return kept


def test_top_p_keeps_the_smallest_set():
    rng = np.random.default_rng(1)
    logits = (rng.normal(size=[300, 50]) * rng.uniform(0.1, 6, [300, 1])).astype(np.float32)
    top_p = rng.uniform(0.01, 0.99, 300).astype(np.float32)
    kept = np.isfinite(samplers._within_top_p(tf.constant(logits), tf.constant(top_p)).numpy())
    expected = np.stack([reference_top_p(row, p) for row, p in zip(logits, top_p, strict=True)])
    np.testing.assert_array_equal(kept, expected)
    assert len(set(kept.sum(1))) > 20


def test_top_k_on_many_rows():
    rng = np.random.default_rng(2)
    logits = rng.normal(size=[200, 300]).astype(np.float32) * 3
    top_k = rng.integers(1, 300, 200).astype(np.int32)
    kept = np.isfinite(samplers._within_top_k(tf.constant(logits), tf.constant(top_k)).numpy())
    np.testing.assert_array_equal(kept.sum(1), top_k)
    thresholds = -np.sort(-logits, 1)[np.arange(200), top_k - 1]
    np.testing.assert_array_equal(kept, logits >= thresholds[:, None])


def test_top_p_one_and_tiny():
    assert np.isfinite(samplers._within_top_p(tf.constant(LOGITS[None]), tf.constant([1.0]))).all()
    assert set(draws(rows=100, top_p=1e-6)) == {LOGITS.argmax()}
    assert_drawn_from(only(softmax(LOGITS), reference_top_p(LOGITS, 0.7)), draws(top_p=0.7))


def test_top_p_looks_at_what_top_k_left():
    # After top-k the three left share all the probability anew.
    kept = np.isin(np.arange(V), np.argsort(-LOGITS)[:3])
    kept &= reference_top_p(np.where(kept, LOGITS, -np.inf), 0.6)
    assert 1 <= kept.sum() < 3
    assert_drawn_from(only(softmax(LOGITS), kept), draws(top_k=3, top_p=0.6))


def test_the_repetition_penalty_divides_positive_and_multiplies_negative_logits():
    seen = np.zeros(V, bool)
    seen[[LOGITS.argmax(), LOGITS.argmin(), 4]] = True
    penalized = LOGITS.copy()
    penalized[seen] = np.where(LOGITS[seen] > 0, LOGITS[seen] / 1.7, LOGITS[seen] * 1.7)
    assert_drawn_from(softmax(penalized), draws(seen=seen, repetition_penalty=1.7))
    # Greedy choice too; and a strong penalty moves it.
    greedy = draws(rows=1, seen=seen, repetition_penalty=100.0, temperature=0.0)[0]
    assert greedy == np.where(seen, penalized / 1e3, LOGITS).argmax() != LOGITS.argmax()


def test_settings_belong_to_their_row():
    rows = {
        "temperature": [0.0, 1.0, 0.7, 2.0, 1.0],
        "top_k": [0, 1, 4, 0, 2],
        "top_p": [1.0, 1.0, 0.9, 0.3, 0.8],
        "repetition_penalty": [1.0, 1.2, 1.0, 3.0, 1.0],
        "seed": [5, 5, 6, 7, 8],
    }
    seen = np.arange(V) < 4
    for index in range(8):
        together = draws(rows=5, seen=seen, index=index, **rows)
        alone = [
            draws(
                rows=1,
                seen=seen,
                index=index,
                **{name: values[row : row + 1] for name, values in rows.items()},
            )[0]
            for row in range(5)
        ]
        np.testing.assert_array_equal(together, alone)


def test_index_and_seed_vary_the_draw():
    assert len({tuple(draws(rows=20, index=index)) for index in range(5)}) == 5
    assert len(set(draws(rows=200, seed=1))) == 1
    assert len(set(draws(rows=200))) > 5


def test_the_smallest_random_number_still_draws_what_is_kept(monkeypatch):
    # One number in 2**24 is exactly 0, whose Gumbel noise would be minus infinity.
    monkeypatch.setattr(
        samplers.stateless_random, "uniform", lambda seeds, size: tf.zeros([tf.shape(seeds)[0], size])
    )
    logits = np.zeros(V, np.float32)
    logits[5] = 1.0
    assert set(draws(rows=3, logits=logits, top_k=1)) == {5}


def test_draws_are_the_same_under_xla():
    rows = 64
    logits = tf.constant(np.random.default_rng(3).normal(size=[rows, 40]).astype(np.float32))
    values = settings(rows, temperature=0.9, top_k=20, top_p=0.9, repetition_penalty=1.1)
    seen = tf.zeros([rows, 40], tf.bool)
    compiled = tf.function(sample, jit_compile=True, autograph=False)(logits, seen, tf.constant(1), values)
    np.testing.assert_array_equal(compiled, sample(logits, seen, tf.constant(1), values))

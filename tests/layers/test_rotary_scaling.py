import math

import numpy as np
import pytest

from tfllm.layers.positions.rotary_scaling import scaled_frequencies

DIM, THETA = 16, 10_000.0
PLAIN = [THETA ** (-i / DIM) for i in range(0, DIM, 2)]
LLAMA3 = {
    "type": "llama3",
    "factor": 8.0,
    "original_max_seq_len": 512,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
YARN = {
    "type": "yarn",
    "factor": 8.0,
    "original_max_seq_len": 512,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "attention_factor": None,
    "truncate": True,
}


def test_no_scaling_is_the_geometric_series():
    assert scaled_frequencies(DIM, THETA) == (PLAIN, 1.0)


def test_linear_divides_all():
    frequencies, magnitude = scaled_frequencies(DIM, THETA, {"type": "linear", "factor": 4.0})
    np.testing.assert_allclose(frequencies, np.array(PLAIN) / 4)
    assert magnitude == 1.0


def test_llama3_divides_long_waves_and_keeps_short_ones():
    frequencies, magnitude = scaled_frequencies(DIM, THETA, LLAMA3)
    turns = 512 * np.array(PLAIN) / (2 * math.pi)
    assert magnitude == 1.0
    for ours, plain, count in zip(frequencies, PLAIN, turns, strict=True):
        if count >= 4:
            assert ours == plain
        elif count <= 1:
            assert ours == pytest.approx(plain / 8)
        else:
            assert plain / 8 < ours < plain
    assert (turns >= 4).any() and (turns <= 1).any() and ((turns > 1) & (turns < 4)).any()
    # The published code at one wave in between: (turns - low) / (high - low) of it stays.
    index = int(np.flatnonzero((turns > 1) & (turns < 4))[0])
    kept = (turns[index] - 1) / 3
    assert frequencies[index] == pytest.approx(kept * PLAIN[index] + (1 - kept) * PLAIN[index] / 8)


def test_yarn_ramps_over_pairs_and_strengthens_attention():
    frequencies, magnitude = scaled_frequencies(DIM, THETA, YARN)
    assert magnitude == pytest.approx(0.1 * math.log(8) + 1)
    assert scaled_frequencies(DIM, THETA, {**YARN, "attention_factor": 1.5})[1] == 1.5
    ratios = np.array(frequencies) / PLAIN
    assert ratios[0] == 1.0
    assert ratios[-1] == pytest.approx(1 / 8)
    assert (np.diff(ratios) <= 1e-12).all()
    # Peng et al. 2023, section 3.2: the pair that turns r times is d ln(L / (2 pi r)) / (2 ln theta).
    low, high = (DIM * math.log(512 / (2 * math.pi * r)) / (2 * math.log(THETA)) for r in (32, 1))
    exact, _ = scaled_frequencies(DIM, THETA, {**YARN, "truncate": False})
    for pair, ratio in enumerate(np.array(exact) / PLAIN):
        share = min(1.0, max(0.0, (pair - low) / (high - low)))
        assert ratio == pytest.approx(share / 8 + 1 - share)


def test_factors_divide_one_pair_each():
    factors = [1.0, 2.0, 4.0, 1.5, 1.0, 8.0, 8.0, 3.0]
    frequencies, magnitude = scaled_frequencies(DIM, THETA, {"type": "factors", "factors": factors})
    assert frequencies == [plain / factor for plain, factor in zip(PLAIN, factors, strict=True)]
    assert magnitude == 1.0
    with pytest.raises(ValueError, match="shorter"):
        scaled_frequencies(DIM, THETA, {"type": "factors", "factors": factors[:-1]})


def test_an_unknown_type_is_refused():
    with pytest.raises(
        ValueError, match="rope_scaling type='dynamic' is not known; use linear, llama3, yarn or factors"
    ):
        scaled_frequencies(DIM, THETA, {"type": "dynamic", "factor": 2.0})

from tests.data.fakes import words
from tfllm.data.sample import sampled_texts


def test_texts_within_the_budget_are_all_taken_in_order():
    texts = ["b", "é", "a"]
    assert sampled_texts(texts, max_bytes=4) == [text.encode() for text in texts]


def test_a_sample_fits_covers_the_stream_and_repeats():
    texts = words(4000)
    whole = sum(map(len, texts))
    for budget in (whole // 3, whole // 20):
        sample = sampled_texts(iter(texts), max_bytes=budget)
        assert budget * 0.45 < sum(map(len, sample)) <= budget
        numbers = [int(text.split()[0]) for text in sample]
        assert numbers == sorted(numbers)
        quarters = [sum(q * 1000 <= n < (q + 1) * 1000 for n in numbers) for q in range(4)]
        assert min(quarters) > 0.6 * len(sample) / 4
        assert sample == sampled_texts(iter(texts), max_bytes=budget)


def test_one_text_above_the_budget_is_taken_rather_than_none():
    assert sampled_texts(["long enough"], max_bytes=3) == [b"long enough"]

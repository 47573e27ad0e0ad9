"""Tags and the spans that they mark, in every scheme, and broken ones as `conlleval` reads them."""

import numpy as np
import pytest

from tfllm.tasks.tags import iob2, mark_spans, spans_of, tag_names

KINDS = ["PER", "LOC", "A-B", "O"]


def random_spans(rng, length):
    spans, place = [], 0
    while place < length:
        if rng.random() < 0.5:
            stop = min(length, place + int(rng.integers(1, 4)))
            spans.append((place, stop, str(rng.choice(KINDS))))
            place = stop
        else:
            place += 1
    return spans


def written(spans, length, scheme):
    """The tags of spans, by the definition of each scheme."""
    tags = ["O"] * length
    for index, (start, stop, kind) in enumerate(spans):
        whole = [f"I-{kind}"] * (stop - start)
        touches = index and spans[index - 1][1] == start and spans[index - 1][2] == kind
        if scheme == "iob2" or (scheme == "iob1" and touches):
            whole[0] = f"B-{kind}"
        if scheme in ("iobes", "bilou"):
            last, only = {"iobes": "ES", "bilou": "LU"}[scheme]
            whole[0], whole[-1] = f"B-{kind}", f"{last}-{kind}"
            whole = [f"{only}-{kind}"] if stop - start == 1 else whole
        tags[start:stop] = whole
    return tags


@pytest.mark.parametrize("scheme", ["iob1", "iob2", "iobes", "bilou"])
def test_every_scheme_gives_its_spans_back(scheme):
    rng = np.random.default_rng(0)
    for _ in range(300):
        length = int(rng.integers(0, 12))
        spans = random_spans(rng, length)
        tags = written(spans, length, scheme)
        assert mark_spans(tags)
        assert spans_of(tags) == spans
    assert iob2(spans, length) == written(spans, length, "iob2")


def as_conlleval(tags):
    """Where chunks begin and end by the tables of `conlleval` (Tjong Kim Sang and De Meulder 2003), which know the tag
    before and this one only."""
    spans, start, before = [], None, ("O", "")
    for place, tag in enumerate([*tags, "O"]):
        this = ("O", "") if tag == "O" else (tag[0], tag[2:])
        ends = before[0] in "ESLU" and before[0] != "O"
        ends |= before[0] in "BI" and (this[0] in "BSUO" or this[1] != before[1])
        if start is not None and ends:
            spans.append((start, place, before[1]))
            start = None
        begins = this[0] in "BSU" or (this[0] in "IEL" and (before[0] in "OESLU" or this[1] != before[1]))
        if begins:
            start = place
        before = this
    return spans


def test_broken_tags_are_read_as_conlleval_reads_them():
    rng = np.random.default_rng(1)
    for _ in range(2000):
        tags = [
            "O" if rng.random() < 0.3 else f"{rng.choice(list('BIESLU'))}-{rng.choice(['X', 'Y'])}"
            for _ in range(rng.integers(0, 9))
        ]
        assert spans_of(tags) == as_conlleval(tags), tags
    assert spans_of(["I-X", "I-X", "I-Y", "O", "I-Y"]) == [(0, 2, "X"), (2, 3, "Y"), (4, 5, "Y")]


def test_what_marks_spans_and_what_does_not():
    assert mark_spans(["O", "B-per", "I-per"]) and mark_spans(["B", "I", "O"]) and mark_spans(["O"])
    assert not mark_spans(["NN", "VB"]) and not mark_spans(["O", "PER"]) and not mark_spans(["B-"])
    assert spans_of(["B", "I", "O", "B"]) == [(0, 2, ""), (3, 4, "")]
    assert tag_names(["LOC", ""]) == ["O", "B-LOC", "I-LOC", "B", "I"]

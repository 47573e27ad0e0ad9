"""The smallest config, as a mapping; sections may be replaced."""


def minimal(**sections):
    return {
        "name": "test",
        "data": {"train": "python_docs", "seq_len": 64},
        "generation": {"max_new_tokens": 16},
        **sections,
    }

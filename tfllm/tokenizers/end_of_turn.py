"""Names of tokens that end a turn, or a text, in models at large."""

from __future__ import annotations

from collections.abc import Collection, Mapping

# What llama.cpp takes for an end wherever a vocabulary has it, by name (`special_eog_ids` of its `llama-vocab.cpp`).
END_NAMES = (
    *(
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<|flush|>",
        "<|calls|>",
        "<end_of_turn>",
    ),
    *("<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>"),
    *("<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~["),
    # Between files of code, where a model fills in.
    *(
        "<|fim_pad|>",
        "<fim-pad>",
        "<fim_pad>",
        "<PAD>",
        "[PAD]",
        "<|fim_repo|>",
        "<|repo_name|>",
        "<fim-repo>",
    ),
    *("<REPO>", "<reponame>", "<|file_sep|>"),
)
# Who has all of the first uses the second for something else.
_NOT_ENDS = (
    (("<|return|>", "<|call|>"), "<|end|>"),
    (("<|flush|>", "<|call|>"), "<|end|>"),
    (("<|flush|>", "<|calls|>"), "<|end|>"),
    (("<|tool_response>",), "</s>"),
)


def end_names(vocabulary: Collection[str] | Mapping[str, int]) -> list[str]:
    """Those of a vocabulary's tokens that end a turn or a text by their names."""
    found = [name for name in END_NAMES if name in vocabulary]
    others = {other for names, other in _NOT_ENDS if all(name in vocabulary for name in names)}
    return [name for name in found if name not in others]


def looks_like_control(name: str) -> bool:
    """Whether a token's name says that it controls a model, though a file may list it as an ordinary one."""
    return name in END_NAMES or (
        name.startswith(("<|", "<｜")) and name.endswith(("|>", "｜>")) and len(name) > 4
    )

"""What the families of encoder-decoders have in common."""

from __future__ import annotations

import dataclasses
from typing import Any

from tfllm.convert.config_reader import REQUIRED, ConfigReader
from tfllm.convert.config_table import LAYERS, MOST_LAYERS, Arguments
from tfllm.convert.model_kind import ModelKind, with_defaults, without_effect
from tfllm.layers.feed_forward import default_intermediate_dim
from tfllm.layers.positions.relative import bucket_problem
from tfllm.models.encoder_decoder import EncoderDecoder

_MOST_SINUSOIDS = 1 << 20  # of which a table is made before a model is
# How text is generated belongs to generation_config.json; older files say it in config.json.
# fmt: off
GENERATION_KEYS = (
    "bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample", "early_stopping",
    "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "force_bos_token_to_be_generated",
    "length_penalty", "max_length", "min_length", "no_repeat_ngram_size", "num_beam_groups", "num_beams",
    "num_return_sequences", "output_scores", "remove_invalid_values", "repetition_penalty",
    "return_dict_in_generate", "suppress_tokens", "temperature", "top_k", "top_p", "typical_p",
)
# fmt: on


def _resolved(arguments: Arguments) -> Arguments:
    full = with_defaults(EncoderDecoder, arguments)
    relative = full["positions"] == "relative"
    full["decoder_num_heads"] = full["decoder_num_heads"] or full["num_heads"]
    if full["head_dim"] is None and full["num_heads"] == full["decoder_num_heads"]:
        full["head_dim"] = full["hidden_dim"] // full["num_heads"]
    if full["attention_scale"] is None and full["head_dim"] is not None:
        full["attention_scale"] = full["head_dim"] ** -0.5
    if full["intermediate_dim"] is None:
        full["intermediate_dim"] = default_intermediate_dim(full["hidden_dim"], full["activation"])
    full["decoder_intermediate_dim"] = full["decoder_intermediate_dim"] or full["intermediate_dim"]
    if full["num_heads"] == full["decoder_num_heads"]:
        full["num_kv_heads"] = full["num_kv_heads"] or full["num_heads"]
    # What has no effect beside other arguments is brought to one form.
    if relative:
        full["max_seq_len"] = None
    else:
        full.update(relative_num_buckets=None, relative_max_distance=None)
    full.update(without_effect(full, full["head_dim"], layers=None))
    if full["positions"] != "learned":
        full["position_offset"] = 0
    return full


def _matrices(arguments: Arguments) -> list[tuple[str, int]]:
    width, context = arguments["hidden_dim"], arguments["max_seq_len"]
    vocabularies = [arguments["vocab_size"], arguments["source_vocab_size"] or 0]
    feeds = [arguments["intermediate_dim"], arguments["decoder_intermediate_dim"]]
    heads, head_dim = max(arguments["num_heads"], arguments["decoder_num_heads"]), arguments["head_dim"]
    sizes = [
        (f"a vocabulary of {max(vocabularies)}", width * max(vocabularies)),
        (f"a feed-forward of {max(feeds)}", width * max(feeds)),
        (f"{heads} heads of {head_dim}", width * heads * (head_dim or width // heads)),
    ]
    layers = arguments["num_encoder_layers"] + arguments["num_decoder_layers"]
    smallest = min(feeds) + min(arguments["num_heads"], arguments["decoder_num_heads"]) * (head_dim or 1)
    sizes.append((f"{layers} blocks of such", layers * 2 * width * smallest))
    learned = arguments["positions"] == "learned"
    return [*sizes, (f"{context} learned positions", width * context)] if learned else sizes


def _check(arguments: Arguments) -> str | None:
    width, head_dim = arguments["hidden_dim"], arguments.get("head_dim")
    for heads in (arguments["num_heads"], arguments.get("decoder_num_heads") or arguments["num_heads"]):
        if head_dim is None and width % heads:
            return f"a width of {width} must be divisible by {heads} attention heads"
    start, vocabulary = arguments["decoder_start_id"], arguments["vocab_size"]
    if not 0 <= start < vocabulary:
        return f"the decoder starts with token {start}, which a vocabulary of {vocabulary} does not have"
    if arguments["positions"] == "sinusoidal" and arguments["max_seq_len"] > _MOST_SINUSOIDS:
        return f"{arguments['max_seq_len']} positions are more than the {_MOST_SINUSOIDS} that sines are computed of"
    if arguments["positions"] == "sinusoidal" and width % 2:
        return f"a width of {width} must be even: half of a position is sines, half cosines"
    if arguments["positions"] == "relative":
        sizes = (arguments["relative_num_buckets"], arguments["relative_max_distance"])
        return bucket_problem(*sizes, bidirectional=True) or bucket_problem(*sizes, bidirectional=False)
    return None


ENCODER_DECODER = ModelKind(EncoderDecoder, _resolved, _matrices, _check)


@dataclasses.dataclass(frozen=True)
class StartToken:
    """The token that the decoder starts from; a `ConfigRow`.

    transformers 5 keeps it in generation_config.json where it is not a field of the config; then the family's
    default holds.

    Args:
        default: The family's; by default there is none.
        or_key: Key that says it where `decoder_start_token_id` does not.
        is_padding: Written also as `pad_token_id`, which has to be in the vocabulary.
    """

    default: Any = REQUIRED
    or_key: str | None = None
    is_padding: bool = False

    def read(self, config: ConfigReader, arguments: Arguments) -> Arguments:
        """See `ConfigRow`."""
        del arguments
        default = self.default if self.or_key is None else config.take(self.or_key, int, self.default)
        return {"decoder_start_id": config.take("decoder_start_token_id", int, default)}

    def write(self, arguments: Arguments) -> dict[str, Any]:
        """See `ConfigRow`."""
        start = arguments["decoder_start_id"]
        return {"decoder_start_token_id": start, **({"pad_token_id": start} if self.is_padding else {})}


@dataclasses.dataclass(frozen=True)
class Follows:
    """A size of the decoder, which is another argument's where its key is absent; a `ConfigRow`.

    Args:
        theirs: The key.
        ours: The argument.
        other: The argument it follows.
    """

    theirs: str
    ours: str
    other: str

    def read(self, config: ConfigReader, arguments: Arguments) -> Arguments:
        """See `ConfigRow`."""
        value = config.size(self.theirs, arguments[self.other])
        if self.ours in LAYERS and value > MOST_LAYERS:
            raise config.refuse(self.theirs, value, f"at most {MOST_LAYERS} blocks are")
        return {self.ours: value}

    def write(self, arguments: Arguments) -> dict[str, Any]:
        """See `ConfigRow`."""
        return {self.theirs: arguments[self.ours]}


@dataclasses.dataclass(frozen=True)
class Again:
    """A key that says what another has said, and may not say anything else; a `ConfigRow`.

    Args:
        theirs: The key.
        ours: The argument that the other key gave.
    """

    theirs: str
    ours: str

    def read(self, config: ConfigReader, arguments: Arguments) -> Arguments:
        """See `ConfigRow`."""
        value, said = config.take(self.theirs, int, None), arguments[self.ours]
        if value is not None and value != said:
            raise config.refuse(self.theirs, value, f"another key has said {said}")
        return {}

    def write(self, arguments: Arguments) -> dict[str, Any]:
        """See `ConfigRow`."""
        del arguments
        return {}

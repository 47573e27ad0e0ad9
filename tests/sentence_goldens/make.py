"""Makes folders of sentence-transformers with the library itself, and the vectors that it computes with them.

Run by a Python that has sentence-transformers: `python tests/sentence_goldens/make.py FOLDER`.
"""

import json
import sys
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
)

TEXTS = ["a", "abc d e", "J i h g f e d c b a ab", "", "a b c d e f g h i j " * 3]
WIDTH = 16


def bert(folder):
    """An encoder, with a WordPiece of a few letters."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", *(f"##{c}" for c in "abcdefghij")]
    BertTokenizerFast(vocab={name: i for i, name in enumerate(names)}).save_pretrained(folder)
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = BertConfig(
        vocab_size=len(names), hidden_size=WIDTH, max_position_embeddings=48, initializer_range=0.5, **sizes
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)


def llama(folder):
    """A decoder, with a token a byte, whose rows are padded on the left."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>", padding_side="left"
    )
    made.save_pretrained(folder)
    sizes = {
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 24,
    }
    config = LlamaConfig(
        vocab_size=260, hidden_size=WIDTH, max_position_embeddings=96, initializer_range=0.5, **sizes
    )
    LlamaModel(config).save_pretrained(folder)


def dense(width, size, activation, **options):
    return Dense(width, size, activation_function=activation, **options)


CASES = {
    **{
        kind: ("bert", {}, lambda kind=kind: [Pooling(WIDTH, kind)], {})
        for kind in ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
    },
    "two_and_normalize": ("bert", {}, lambda: [Pooling(WIDTH, ("mean", "cls")), Normalize()], {}),
    "dense": (
        "bert",
        {},
        lambda: [Pooling(WIDTH, "mean"), dense(WIDTH, 8, torch.nn.Tanh()), Normalize()],
        {},
    ),
    "dense_twice": (
        "bert",
        {},
        lambda: [
            Pooling(WIDTH, "max"),
            dense(WIDTH, 24, torch.nn.GELU()),
            dense(24, 24, torch.nn.Identity(), bias=False, use_residual=True),
        ],
        {},
    ),
    "short": ("bert", {"max_seq_length": 6}, lambda: [Pooling(WIDTH, "mean"), Normalize()], {}),
    "prompt": (
        "bert",
        {},
        lambda: [Pooling(WIDTH, "mean", include_prompt=False)],
        {"prompts": {"query": "ab c ", "other": ""}, "default_prompt_name": "query"},
    ),
    "decoder_last": ("llama", {}, lambda: [Pooling(WIDTH, "lasttoken"), Normalize()], {}),
    "decoder_mean": ("llama", {"max_seq_length": 20}, lambda: [Pooling(WIDTH, "weightedmean")], {}),
}


def main(root):
    torch.manual_seed(0)
    vectors = {}
    for name, make in (("bert", bert), ("llama", llama)):
        make(root / name)
    for name, (base, reading, modules, about) in CASES.items():
        model = SentenceTransformer(
            modules=[Transformer(str(root / base), **reading), *modules()], device="cpu", **about
        )
        texts = [text for text in TEXTS if text] if base == "llama" else TEXTS
        vectors[name] = model.encode(texts).tolist()
        model.save(str(root / name))
        (root / name / "README.md").unlink()
        for shared in [
            *(root / name).glob("*.safetensors"),
            root / name / "config.json",
            root / name / "tokenizer.json",
        ]:
            shared.unlink()  # as in the base
    (root / "vectors.json").write_text(json.dumps({"texts": TEXTS, "vectors": vectors}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

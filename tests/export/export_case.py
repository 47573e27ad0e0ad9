import types

from tfllm.models.decoder import Decoder

PROMPTS = ["The quick", "", "🤗 naïve café 中文", "def wrap(self, text):\n    ", "x"]
CASES = ["byte, learned positions", "byte_bpe, rotary"]
CONTEXT, LIMIT = 64, 24
DEFAULTS = {
    "max_new_tokens": 12,
    "temperature": 0.9,
    "top_k": 0,
    "top_p": 0.95,
    "repetition_penalty": 1.1,
    "seed": 3,
}


def tiny_model(tokenizer, **arguments):
    # Weights far larger than usual make text that varies, and ends by itself now and then.
    settings = {"num_layers": 2, "hidden_dim": 32, "num_heads": 4, "max_seq_len": CONTEXT, **arguments}
    model = Decoder(vocab_size=tokenizer.vocab_size, initializer_range=0.15, **settings)
    model.build()
    return model


class Case(types.SimpleNamespace):
    """A model, its tokenizer, its export, and what the live model says."""

    def live(self, prompts, **settings):
        ids = [[self.tokenizer.bos_id, *self.tokenizer.encode(prompt)] for prompt in prompts]
        return [self.tokenizer.decode(row) for row in self.generator(ids, **settings)]

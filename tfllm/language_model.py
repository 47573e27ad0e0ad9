"""The Python face: a trained model with its tokenizer and config."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tfllm.config import ExperimentConfig, save_config
from tfllm.experiment import make_generator, make_model
from tfllm.generation.errors import GenerationError
from tfllm.generation.generate import Generator
from tfllm.run_folder import RunFolder
from tfllm.tokenizers import Tokenizer, load_tokenizer
from tfllm.training.checkpoint import Checkpointer, model_variables, restore_model


class LanguageModel:
    """A model that reads and writes text.

    Args:
        model: The Keras model.
        tokenizer: Its tokenizer.
        config: The experiment it comes from.
        step: Updates it was trained for.
        jit_compile: Compile generation with XLA: slower at the first call, faster at the others.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        config: ExperimentConfig,
        *,
        step: int = 0,
        jit_compile: bool = True,
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.config = config
        self.step = step
        self.jit_compile = jit_compile

    @cached_property
    def generator(self) -> Generator:
        """Generates token ids; compiled once a bucket of lengths."""
        return make_generator(self.model, self.tokenizer, jit_compile=self.jit_compile)

    def encode(self, prompt: str) -> list[int]:
        """Token ids of a prompt, the start of a document before them."""
        return [self.tokenizer.bos_id, *self.tokenizer.encode(prompt)]

    def generate(self, prompts: str | Sequence[str], **settings: Any) -> Any:
        """Continues prompts.

        Args:
            prompts: One prompt, or several.
            settings: `max_new_tokens`, `temperature`, `top_k`, `top_p`, `repetition_penalty`, `seed`; what
                is left out comes from the config's `generation` section.

        Returns:
            The continuation, or a list of them.

        Raises:
            GenerationError: when a prompt does not fit the context, or a setting is out of range.

        Example:
            >>> lm = tfllm.load("runs/quickstart")
            >>> lm.generate("The assert statement", max_new_tokens=40, temperature=0.0)
        """
        if isinstance(prompts, str):
            return self.generate([prompts], **settings)[0]
        names = ("max_new_tokens", "temperature", "top_k", "top_p", "repetition_penalty", "seed")
        unknown = sorted(set(settings) - set(names))
        if unknown:
            raise GenerationError(f"{unknown[0]} is not a setting of generate; there are {', '.join(names)}")
        defaults = {name: getattr(self.config.generation, name) for name in names}
        ids = self.generator([self.encode(prompt) for prompt in prompts], **{**defaults, **settings})
        return [self.tokenizer.decode(row) for row in ids]

    def save(self, path: str | Path) -> None:
        """Writes config, tokenizer and weights to a folder that `tfllm.load` reads."""
        folder = RunFolder(Path(path))
        folder.path.mkdir(parents=True, exist_ok=True)
        save_config(self.config, folder.config)
        self.tokenizer.save(folder.tokenizer)
        checkpointer = Checkpointer(folder.checkpoints, model_variables(self.model), keep=1)
        checkpointer.save(self.step, {})
        checkpointer.wait()


def load(
    path: str | Path, *, jit_compile: bool = True, notify: Callable[[str], None] = print
) -> LanguageModel:
    """Loads a run folder, weights in float32, from its newest whole checkpoint.

    Args:
        path: The folder of a run, or one written by `LanguageModel.save`.
        jit_compile: As in `LanguageModel`.
        notify: Receives a line when a damaged checkpoint is passed over.

    Raises:
        ConfigError: when the folder is not a run.
        CheckpointError: when it holds no whole checkpoint, or one of another model.
    """
    folder = RunFolder(Path(path))
    config = folder.load_config()
    tokenizer = load_tokenizer(folder.tokenizer)
    model = make_model(config, tokenizer.vocab_size)
    restored = restore_model(folder.checkpoints, model, notify=notify)
    return LanguageModel(model, tokenizer, config, step=restored.step, jit_compile=jit_compile)

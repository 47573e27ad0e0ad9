"""The Python face: a language model with its tokenizer and config."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfllm.config import ExperimentConfig, save_config
from tfllm.config.build import to_mapping
from tfllm.convert.adapter_writer import Beside, write_adapter
from tfllm.convert.errors import ConvertError
from tfllm.convert.generation_config import write_generation_file
from tfllm.convert.hub import local_path
from tfllm.convert.huggingface import save_model, written_config
from tfllm.convert.sentence_modules import SentenceModules
from tfllm.convert.weight_table import variables_by_path
from tfllm.data.record import Record
from tfllm.experiment.adapter import change_adapter
from tfllm.experiment.model import merged
from tfllm.experiment.origins.adapter import OURS, described
from tfllm.experiment.parts import make_generator, make_task
from tfllm.experiment.run_folder import RunFolder
from tfllm.experiment.stop_tokens import named_ids
from tfllm.experiment.writing import written
from tfllm.generation.errors import GenerationError
from tfllm.generation.generate import Generator
from tfllm.generation.model import generates
from tfllm.language_model.embed import embed
from tfllm.language_model.text_reader import TextReader
from tfllm.models.decoder import Decoder
from tfllm.peft.lora import NAME
from tfllm.peft.targets import low_rank_layers
from tfllm.tasks.examples.prompt import SOURCE
from tfllm.tokenizers import NoTokenizerError, Tokenizer
from tfllm.tokenizers.chat.encoding import encode_prompt
from tfllm.training.checkpoint import Checkpointer
from tfllm.training.model_checkpoint import model_variables

_OTHERS = {"huggingface": "transformers", "peft": "PEFT"}
_FORMATS = ("tfllm", *_OTHERS)
_SETTINGS = ("max_new_tokens", "temperature", "top_k", "top_p", "repetition_penalty", "seed")


class LanguageModel(TextReader):
    """A model that reads and writes text.

    Args:
        model: The Keras model.
        tokenizer: Its tokenizer; None where the checkpoint has none: then what needs text raises, and `generator`
            goes from token ids to token ids.
        config: The experiment it comes from.
        step: Updates it was trained for.
        jit_compile: Compile generation with XLA: slower at the first call, faster at the others.
        sentence_modules: How texts become vectors; None is the mean, of length 1.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer | None,
        config: ExperimentConfig,
        *,
        step: int = 0,
        jit_compile: bool = True,
        sentence_modules: SentenceModules | None = None,
    ):
        self.model = model
        self._tokenizer = tokenizer
        self.sentence_modules = sentence_modules
        self.config = config
        self.step = step
        self.jit_compile = jit_compile
        self._covered: dict[
            str, Any
        ] = {}  # what an adapter that was put here holds whole: the base's own values

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer; NoTokenizerError where it has none."""
        if self._tokenizer is None:
            raise NoTokenizerError(
                f"{self.config.tokenizer.source} has no tokenizer, which reading and writing text needs; put its"
                " tokenizer.json there, or give token ids to lm.generator and lm.model"
            )
        return self._tokenizer

    @cached_property
    def generator(self) -> Generator:
        """Generates token ids; compiled once a bucket of lengths."""
        if not generates(self.model):
            raise GenerationError(
                "an encoder does not generate, nor what tells classes; take embed or classify, or load a decoder or an"
                " encoder-decoder"
            )
        return make_generator(
            self.model, self._tokenizer, self.config.generation.stop_tokens, jit_compile=self.jit_compile
        )

    def encode(self, prompt: str) -> list[int]:
        """Token ids of a prompt, and around them what the model expects: at its end too, if an encoder reads it."""
        continued = generates(self.model) and self.model.reads_prompt_with == "decoder"
        suffix = () if continued else self.tokenizer.suffix_ids
        return [*self.tokenizer.prefix_ids, *self.tokenizer.encode(prompt), *suffix]

    def features(self, text: str) -> dict[str, tf.Tensor]:
        """What the model is called with to read a text: a batch of one row.

        Returns:
            `token_ids` int32 [1, T]; of an encoder-decoder `encoder_token_ids` int32 [1, S], and as
            `decoder_token_ids` int32 [1, 1] what its answer begins with.

        Example:
            >>> lm = tfllm.load("runs/quickstart")
            >>> lm.model(lm.features("x = 1"))["logits"]  # float32 [1, T, V]
        """
        token_ids = tf.constant([self.encode(text)], tf.int32)
        if not generates(self.model) or self.model.reads_prompt_with == "decoder":
            return {"token_ids": token_ids}
        begin, _ = self.model.decoder_prompt(token_ids, tf.ones_like(token_ids, tf.bool))
        return {"encoder_token_ids": token_ids, "decoder_token_ids": begin}

    def embed(
        self,
        texts: str | Sequence[str],
        *,
        pooling: str | None = None,
        normalize: bool | None = None,
        prompt_name: str | None = None,
    ) -> np.ndarray:
        """One vector for each text, from an encoder or a decoder.

        Args:
            texts: One text, or several; what is longer than the model's context, or the checkpoint's
                `max_seq_length`, is cut off.
            pooling: mean of all tokens; first token; last token; or pooler, where the model has one. None is what a
                folder of sentence-transformers says, with its layers behind it, and else the mean.
            normalize: Divide each vector by its length, so that a product of two is their cosine. None is what the
                folder says, and else True.
            prompt_name: Of the folder's prompts, the one to put before each text; None is its default, if it has one.

        Returns:
            float32 [E] for one text, [B, E] for several.

        Raises:
            GenerationError: when the pooling or the prompt is not known, or the model has none.

        Example:
            >>> lm = tfllm.load("all-MiniLM-L6-v2")
            >>> near, far = lm.embed(["a cat", "a dog"]) @ lm.embed("a kitten")
        """
        if isinstance(texts, str):
            return self.embed([texts], pooling=pooling, normalize=normalize, prompt_name=prompt_name)[0]
        return embed(
            self.model,
            self.tokenizer,
            texts,
            modules=self.sentence_modules,
            pooling=pooling,
            normalize=normalize,
            prompt_name=prompt_name,
        )

    def encode_chat(self, prompt: str | Sequence[Mapping[str, Any]], **variables: Any) -> list[int]:
        """Token ids of a chat, up to where the assistant's answer begins.

        Args:
            prompt: Messages, each with `role` and `content`; or the content of one message of the user.
            variables: Of the chat template, such as `tools`, `documents` or `enable_thinking`; and `chat_template`,
                the name of one where the tokenizer has several.

        Raises:
            TokenizerError: when the tokenizer has no chat template, or it refuses the messages.
        """
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        return encode_prompt(self.tokenizer, messages, **variables)

    def generate(self, prompts: str | Sequence[Any], *, chat: bool = False, **settings: Any) -> Any:
        """Continues prompts, or answers them.

        Args:
            prompts: One prompt, or several. In a chat a prompt is what the user says, or a list of messages.
            chat: Put the prompts into the model's chat template.
            settings: `max_new_tokens`, `temperature`, `top_k`, `top_p`, `repetition_penalty`, `seed`; what
                is left out comes from the config's `generation` section.

        Returns:
            The continuation, or a list of them.

        Raises:
            GenerationError: when a prompt does not fit the context, or a setting is out of range.
            TokenizerError: when there is no chat template, or it refuses the messages.

        Example:
            >>> lm = tfllm.load("runs/quickstart")
            >>> lm.generate("The assert statement", max_new_tokens=40, temperature=0.0)
        """
        if isinstance(prompts, str) or (prompts and isinstance(prompts[0], Mapping)):
            return self.generate([prompts], chat=chat, **settings)[0]
        _check_settings(settings, "generate")
        defaults = {name: getattr(self.config.generation, name) for name in _SETTINGS}
        encode = self.encode_chat if chat else self.encode
        ids = self.generator([encode(prompt) for prompt in prompts], **{**defaults, **settings})
        return [self.tokenizer.decode(row) for row in ids]

    def write(self, sources: str | Sequence[str], **settings: Any) -> Any:
        """Writes the target of each source, such as its translation, as a model of task.type=seq2seq was trained to.

        Args:
            sources: One text, or several; of what is longer than the model's context the end is left out.
            settings: As of `generate`; what is left out is greedy, the likeliest token each time, and
                `max_new_tokens` from the config's `generation` section.

        Returns:
            A text, or a list of them.

        Raises:
            GenerationError: when the model was not trained for it, or a setting is out of range.

        Example:
            >>> lm = tfllm.load("runs/translation")
            >>> lm.write("Open the file.")
        """
        self._check("targets", "this model writes no targets to sources")
        if isinstance(sources, str):
            return self.write([sources], **settings)[0]
        _check_settings(settings, "write")
        records = [Record({SOURCE: source}) for source in sources]
        task = make_task(self.config, self.tokenizer)
        return written(self.config, self.generator, self.tokenizer, task, records, **settings)

    def merged(self) -> LanguageModel:
        """The same with what was trained beside its matrices added to them, in float32.

        It is itself where there is nothing, or where what is there is no sum, as adapters are.

        Example:
            >>> tfllm.load("runs/chat").merged().save("chat-transformers", to="huggingface")
        """
        if self.config.peft is None or not self.config.peft.sums:
            return self
        return LanguageModel(
            merged(self.model, self.config),
            self._tokenizer,
            dataclasses.replace(self.config, peft=None),
            step=self.step,
            jit_compile=self.jit_compile,
            sentence_modules=self.sentence_modules,
        )

    def use_adapter(self, adapter: str | Path | None) -> None:
        """Puts another LoRA adapter in the place of the one beside the matrices; the base stays where it is.

        Args:
            adapter: As in `tfllm.load`; None is the base alone.

        Raises:
            ConvertError: when it is not understood, or stands beside another model; then nothing is changed.

        Example:
            >>> lm = tfllm.load("SmolLM2-135M-Instruct", adapter="adapters/summaries")
            >>> lm.use_adapter("adapters/chat")
        """
        folder = None if adapter is None else local_path(adapter)
        self.config = change_adapter(self.model, self.config, folder, self._covered)
        self.__dict__.pop("generator", None)  # it was compiled with the other

    def save(self, path: str | Path, *, to: str = "tfllm", dtype: str | None = None) -> None:
        """Writes config, tokenizer and weights to a folder that `tfllm.load` reads.

        Args:
            path: The folder.
            to: tfllm, a folder like that of a run; huggingface, one that transformers opens; or peft, the adapter
                alone of a model that was tuned with LoRA, which PEFT opens, and `tfllm.load(base, adapter=path)`.
            dtype: With huggingface, the type of the weights written: float32, bfloat16 or float16; None is the
                model's own.

        Raises:
            ConvertError: when the format is not known, or cannot say what the model is.
        """
        check_format(to, self.config)
        if to == "peft":
            self._save_adapter(path, dtype)
            return
        if to == "huggingface" and self.config.peft is not None:
            return self.merged().save(path, to=to, dtype=dtype)
        if to == "huggingface":
            # By its pad token transformers finds the last token that a decoder's classifier reads.
            finds = (
                isinstance(self.model, Decoder) and not generates(self.model) and self._tokenizer is not None
            )
            more = {"pad_token_id": self.tokenizer.pad_id} if finds else {}
            save_model(path, self.model, self._arguments(), dtype=dtype, extras=self._save_extras, more=more)
            return
        if dtype not in (None, self.model.variable_dtype):
            raise ConvertError(
                f"dtype={dtype!r} is for huggingface; load the model with that dtype before it is saved as tfllm"
            )
        folder = RunFolder(Path(path))
        folder.path.mkdir(parents=True, exist_ok=True)
        save_config(self.config, folder.config)
        if self._tokenizer is not None:
            self._tokenizer.save(folder.tokenizer)
        if self.sentence_modules is not None:
            self.sentence_modules.save(folder.sentence, hidden_dim=self.model.hidden_dim)
        checkpointer = Checkpointer(folder.checkpoints, model_variables(self.model), keep=1)
        checkpointer.save(self.step, {})
        checkpointer.wait()

    def _save_adapter(self, path: str | Path, dtype: str | None) -> None:
        """Writes what stands beside the matrices, and what was trained whole."""
        if dtype not in (None, "float32"):
            raise ConvertError(f"dtype={dtype!r} is for huggingface; an adapter is written in float32")
        family, _ = written_config(type(self.model), self._arguments())
        peft: Any = self.config.peft
        beside = {}
        for place, layer in low_rank_layers(self.model).items():
            a, b = (each.numpy() for each in layer.pair())
            if len(b):  # of a rank that fell to nothing there is none
                beside[place.split("/", 1)[1]] = Beside(a, b, layer.scale)
        trained = [variable.path.split("/", 1)[1] for variable in self.model.trainable_variables]

        def extras(folder: Path) -> None:
            if self._tokenizer is not None:
                self._tokenizer.save(folder)
            text = json.dumps(described(self.config, self.model), indent=1)
            (folder / OURS).write_text(text + "\n", encoding="utf-8")

        write_adapter(
            path,
            family=family,
            arguments=self._arguments(),
            beside=beside,
            whole=[path for path in trained if f"/{NAME}/" not in path],
            variables=variables_by_path(self.model),
            rslora=getattr(peft, "scaling", "standard") == "rslora",
            dropout=peft.dropout,
            base=self.config.model.source,
            extras=extras,
        )

    def _arguments(self) -> dict[str, Any]:
        return {k: v for k, v in self.model.get_config().items() if k not in ("name", "dtype", "trainable")}

    def _save_extras(self, folder: Path) -> None:
        """Writes what a folder of transformers holds beside config and weights."""
        if self._tokenizer is not None:
            self._tokenizer.save(folder)
        if self.sentence_modules is not None:
            self.sentence_modules.save(folder, hidden_dim=self.model.hidden_dim)
        if generates(self.model):
            self._save_generation(folder)

    def _save_generation(self, folder: Path) -> None:
        tokenizer, stop_tokens = self._tokenizer, self.config.generation.stop_tokens
        of_encoder = self.model.reads_prompt_with == "encoder"
        ends = [] if tokenizer is None else [tokenizer.eos_id]
        begins = tokenizer is not None and "bos_token" not in tokenizer.unset_roles
        write_generation_file(
            folder,
            to_mapping(self.config.generation),
            bos_id=tokenizer.bos_id if tokenizer is not None and begins else None,
            end_ids=[*ends, *named_ids(tokenizer, stop_tokens)],
            pad_id=None if tokenizer is None else tokenizer.pad_id,
            decoder_start_id=self.model.decoder_start_id if of_encoder else None,
        )


def _check_settings(settings: Mapping[str, Any], name: str) -> None:
    unknown = sorted(set(settings) - set(_SETTINGS))
    if unknown:
        raise GenerationError(f"{unknown[0]} is not a setting of {name}; there are {', '.join(_SETTINGS)}")


def check_format(to: str, config: ExperimentConfig) -> None:
    """Refuses a format that is not known, or cannot say what a config's model is.

    Raises:
        ConvertError: with what to write instead.
    """
    if to not in _FORMATS:
        raise ConvertError(f"{to!r} is not a format; write {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}")
    if config.model.type == "keras_nlp" and to != "tfllm":
        raise ConvertError(
            f"a model of KerasHub cannot be written as a folder of {_OTHERS[to]}; save it as tfllm"
        )
    kind = None if config.peft is None else config.peft.type
    if to == "peft" and kind not in ("lora", "adalora"):
        why = "nothing stands beside its matrices" if kind is None else f"it was tuned with peft.type={kind}"
        raise ConvertError(
            f"PEFT keeps matrices of low rank, and this model has none: {why}; save it as huggingface or tfllm"
        )
    if to == "huggingface" and config.peft is not None and not config.peft.sums:
        raise ConvertError(
            f"peft.type={kind} put layers into the model that transformers has no place for; save it as tfllm"
        )

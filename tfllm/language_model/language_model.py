"""The Python face: a language model with its tokenizer and config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfllm.config import ExperimentConfig, save_config
from tfllm.config.build import to_mapping
from tfllm.config.task import SpanQAConfig
from tfllm.convert.errors import ConvertError
from tfllm.convert.generation_config import write_generation_file
from tfllm.convert.huggingface import save_model
from tfllm.convert.sentence_modules import SentenceModules
from tfllm.experiment.parts import make_generator
from tfllm.experiment.run_folder import RunFolder
from tfllm.experiment.stop_tokens import named_ids
from tfllm.generation.errors import GenerationError
from tfllm.generation.generate import Generator
from tfllm.generation.model import Generates
from tfllm.language_model.answer import answers
from tfllm.language_model.embed import embed
from tfllm.language_model.text_logits import relation_logits, text_logits
from tfllm.language_model.word_tags import entities, tags
from tfllm.tokenizers import NoTokenizerError, Tokenizer
from tfllm.tokenizers.chat.encoding import encode_prompt
from tfllm.training.checkpoint import Checkpointer, model_variables

_FORMATS = ("tfllm", "huggingface")
_SETTINGS = ("max_new_tokens", "temperature", "top_k", "top_p", "repetition_penalty", "seed")


class LanguageModel:
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
        if not isinstance(self.model, Generates):
            raise GenerationError(
                "an encoder does not generate; take embed, or load a decoder or an encoder-decoder"
            )
        return make_generator(
            self.model, self._tokenizer, self.config.generation.stop_tokens, jit_compile=self.jit_compile
        )

    def encode(self, prompt: str) -> list[int]:
        """Token ids of a prompt, and around them what the model expects: at its end too, if an encoder reads it."""
        continued = isinstance(self.model, Generates) and self.model.reads_prompt_with == "decoder"
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
        if not isinstance(self.model, Generates) or self.model.reads_prompt_with == "decoder":
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

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The classes that it tells texts apart by, in the order of their logits; None where it does not."""
        if getattr(self.model, "head", "none") != "sequence_classification" or self.tells_numbers:
            return None
        return self.model.class_names or tuple(map(str, range(self.model.classifier.units)))

    @property
    def tells_numbers(self) -> bool:
        """Whether it tells a number from a text: a model with one class, as transformers has it too."""
        head = getattr(self.model, "head", "none")
        return head == "sequence_classification" and self.model.classifier.units == 1

    def classify(self, texts: Any) -> Any:
        """The class of each text, from an encoder that was trained to tell classes apart.

        Args:
            texts: One text, or a list of texts, or of pairs of them; what is longer than the model's context is cut
                off at the end, of a pair the longer first.

        Returns:
            `label`, the likeliest class; its probability `score`; and `scores`, the probability of each class by name;
            or a list of these. Where a text may have any number of classes, `labels`, those more likely than not, and
            `scores`.

        Raises:
            GenerationError: when the model classifies no texts.

        Example:
            >>> lm = tfllm.load("runs/sentiment")
            >>> lm.classify("What a waste of an evening.")["label"]
        """
        names = self.class_names
        if self.tells_relations:
            raise GenerationError("this model tells how two places of a text are related; take lm.relate")
        if names is None:
            mend = "take lm.regress" if self.tells_numbers else "train one with task.type=classification"
            raise GenerationError(f"this model classifies no texts; {mend}")
        if isinstance(texts, str):
            return self.classify([texts])[0]
        logits = text_logits(self.model, self.tokenizer, texts)
        if self.model.multi_label:
            by_name = [dict(zip(names, map(float, row), strict=True)) for row in tf.sigmoid(logits).numpy()]
            return [{"labels": [n for n in names if row[n] > 0.5], "scores": row} for row in by_name]
        return _likeliest(logits, names)

    @property
    def tells_relations(self) -> bool:
        """Whether it was trained to tell how two places of a text are related."""
        return bool(self.config.task.type == "relation_extraction")

    def relate(self, texts: Any, heads: Any, tails: Any) -> Any:
        """How two places of each text are related, from an encoder that was trained to tell.

        Args:
            texts: One text, or a list of them.
            heads: The first character of one place and the one behind its last, `(0, 3)`; of several texts a list.
            tails: The same of the other place.

        Returns:
            `label`, `score` and `scores` as from `classify`; or a list of these.

        Raises:
            GenerationError: when the model tells no relations, or there are not as many places as texts.
            DataError: when a place is not in its text, or both do not fit into the model's context.

        Example:
            >>> lm = tfllm.load("runs/relations")
            >>> lm.relate("Ada was born in London.", (0, 3), (16, 22))["label"]
        """
        names = self.class_names
        if names is None or not self.tells_relations:
            raise GenerationError(
                "this model tells no relations; train one with task.type=relation_extraction"
            )
        if isinstance(texts, str):
            return self.relate([texts], [heads], [tails])[0]
        if not len(texts) == len(heads) == len(tails):
            raise GenerationError("give a head and a tail for each text")
        return _likeliest(relation_logits(self.model, self.tokenizer, texts, heads, tails), names)

    def regress(self, texts: Any) -> Any:
        """The number of each text, from an encoder that was trained to tell one.

        Args:
            texts: One text, or a list of texts, or of pairs of them; what is longer than the model's context is cut
                off at the end, of a pair the longer first.

        Returns:
            A float for one text, float32 [B] for several.

        Raises:
            GenerationError: when the model tells no number.

        Example:
            >>> lm = tfllm.load("runs/valence")
            >>> lm.regress("What a waste of an evening.")
        """
        if not self.tells_numbers:
            mend = "take lm.classify" if self.class_names else "train one with task.type=regression"
            raise GenerationError(f"this model tells no number from a text; {mend}")
        if isinstance(texts, str):
            return float(self.regress([texts])[0])
        return text_logits(self.model, self.tokenizer, texts)[:, 0]

    @property
    def tag_names(self) -> tuple[str, ...] | None:
        """The tags that it tells words by, in the order of their logits; None where it does not."""
        if getattr(self.model, "head", "none") != "token_classification":
            return None
        return self.model.class_names or tuple(map(str, range(self.model.classifier.units)))

    def entities(self, texts: Any) -> Any:
        """The names and other spans that each text holds, from an encoder that was trained to tag words.

        Args:
            texts: One text, or a list of them; what is longer than the model's context is read in windows.

        Returns:
            A list of spans in order, each with its `label`, `text`, first character `start`, the one behind the last
            `end`, and `score`, the mean of its words' probabilities; or a list of such lists. Where the tags mark no
            spans, as parts of speech, each word is one.

        Raises:
            GenerationError: when the model tags no words.

        Example:
            >>> lm = tfllm.load("runs/ner")
            >>> lm.entities("Ada moved to London.")[0]["label"]
        """
        names = self._checked_tags()
        if isinstance(texts, str):
            return self.entities([texts])[0]
        return entities(self.model, self.tokenizer, texts, names)

    def tag(self, sentences: Sequence[Any]) -> Any:
        """The tag of each word.

        Args:
            sentences: The words of a sentence, or a list of sentences.

        Returns:
            A list of tags, one for each word; or a list of such lists.

        Raises:
            GenerationError: when the model tags no words.
        """
        names = self._checked_tags()
        if sentences and isinstance(sentences[0], str):
            return self.tag([sentences])[0]
        return tags(self.model, self.tokenizer, sentences, names)

    def _checked_tags(self) -> tuple[str, ...]:
        if self.tag_names is None:
            raise GenerationError("this model tags no words; train one with task.type=token_classification")
        return self.tag_names

    @property
    def finds_answers(self) -> bool:
        """Whether it finds answers to questions in their contexts."""
        return getattr(self.model, "head", "none") == "span"

    def answer(self, questions: Any, contexts: Any, *, unanswerable: bool | None = None) -> Any:
        """The answer to each question in its context, from an encoder that was trained to find it.

        Args:
            questions: A question, or a list of them.
            contexts: Its context, or a list, one for each; what is longer than the model's context is read in windows.
            unanswerable: Give no answer where none is likelier; None is as it was trained.

        Returns:
            `answer`, empty where there is none; its first character in the context, `start`, and the one behind its
            last,
            `end`; its probability among all spans, `score`; and by how much none is likelier, `null_odds`, in nats; or
            a list of these.

        Raises:
            GenerationError: when the model finds no answers, or there are not as many contexts as questions.
            DataError: when a question leaves no room for its context.

        Example:
            >>> lm = tfllm.load("runs/qa")
            >>> lm.answer("Who wrote it?", "It was written by Ada in 1843.")["answer"]
        """
        if not self.finds_answers:
            raise GenerationError("this model finds no answers; train one with task.type=span_qa")
        if isinstance(questions, str) and isinstance(contexts, str):
            return self.answer([questions], [contexts], unanswerable=unanswerable)[0]
        if isinstance(questions, str) or isinstance(contexts, str) or len(questions) != len(contexts):
            raise GenerationError(
                "give a question and its context, or a list of questions and one of contexts"
            )
        task = self.config.task
        if unanswerable is None:
            unanswerable = getattr(task, "unanswerable", False)
        return answers(
            self.model,
            self.tokenizer,
            list(zip(questions, contexts, strict=True)),
            stride=getattr(task, "stride", SpanQAConfig.stride),
            max_answer_tokens=getattr(task, "max_answer_tokens", SpanQAConfig.max_answer_tokens),
            unanswerable=unanswerable,
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
        unknown = sorted(set(settings) - set(_SETTINGS))
        if unknown:
            raise GenerationError(
                f"{unknown[0]} is not a setting of generate; there are {', '.join(_SETTINGS)}"
            )
        defaults = {name: getattr(self.config.generation, name) for name in _SETTINGS}
        encode = self.encode_chat if chat else self.encode
        ids = self.generator([encode(prompt) for prompt in prompts], **{**defaults, **settings})
        return [self.tokenizer.decode(row) for row in ids]

    def save(self, path: str | Path, *, to: str = "tfllm", dtype: str | None = None) -> None:
        """Writes config, tokenizer and weights to a folder that `tfllm.load` reads.

        Args:
            path: The folder.
            to: tfllm, a folder like that of a run; or huggingface, one that transformers opens.
            dtype: With huggingface, the type of the weights written: float32, bfloat16 or float16; None is the
                model's own.

        Raises:
            ConvertError: when the format is not known, or cannot say what the model is.
        """
        check_format(to, self.config)
        if to == "huggingface":
            save_model(path, self.model, self._arguments(), dtype=dtype, extras=self._save_extras)
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

    def _arguments(self) -> dict[str, Any]:
        return {k: v for k, v in self.model.get_config().items() if k not in ("name", "dtype", "trainable")}

    def _save_extras(self, folder: Path) -> None:
        """Writes what a folder of transformers holds beside config and weights."""
        if self._tokenizer is not None:
            self._tokenizer.save(folder)
        if self.sentence_modules is not None:
            self.sentence_modules.save(folder, hidden_dim=self.model.hidden_dim)
        if isinstance(self.model, Generates):
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


def _likeliest(logits: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """The likeliest class of each row, and the probability of every one."""
    return [
        {
            "label": names[int(row.argmax())],
            "score": float(row.max()),
            "scores": dict(zip(names, map(float, row), strict=True)),
        }
        for row in tf.nn.softmax(logits).numpy()
    ]


def check_format(to: str, config: ExperimentConfig) -> None:
    """Refuses a format that is not known, or cannot say what a config's model is.

    Raises:
        ConvertError: with what to write instead.
    """
    if to not in _FORMATS:
        raise ConvertError(f"{to!r} is not a format; write {' or '.join(_FORMATS)}")
    if config.model.type == "keras_nlp" and to == "huggingface":
        raise ConvertError(
            "a model of KerasHub cannot be written as a folder of transformers; save it as tfllm"
        )

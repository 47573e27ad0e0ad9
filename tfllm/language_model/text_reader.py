"""What a model tells of texts that it reads: their classes, a number, words that are something, answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfllm.config import ExperimentConfig
from tfllm.config.text_task import SpanQAConfig
from tfllm.generation.errors import GenerationError
from tfllm.language_model.answer import answers
from tfllm.language_model.text_logits import relation_logits, text_logits
from tfllm.language_model.word_tags import entities, tags
from tfllm.tokenizers import Tokenizer

# What is told → the task that teaches it, and the method that says it.
_TAUGHT = {
    "classes": ("classification", "classify"),
    "numbers": ("regression", "regress"),
    "relations": ("relation_extraction", "relate"),
    "tags": ("token_classification", "entities"),
    "answers": ("span_qa", "answer"),
    "targets": ("seq2seq", "write"),
    "replies": ("chat", "generate"),
}


class TextReader(ABC):
    """The part of a `LanguageModel` that reads texts with the layer that a model has on top.

    Attributes:
        model: The Keras model.
        config: The experiment that it comes from.
    """

    model: Any
    config: ExperimentConfig

    @property
    @abstractmethod
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""

    @property
    def tells(self) -> str | None:
        """What it tells of texts: `classes`, `numbers` (a model of one class, as transformers has it too), `relations`
        of two places, `tags` of words, `answers` to questions, `targets` that it writes to sources, `replies` in
        conversations; None of a model that tells none of these."""
        if getattr(self.config.task, "writes", False):
            return "targets"
        if getattr(self.config.task, "chats", False):
            return "replies"
        head = getattr(self.model, "head", "none")
        if head == "sequence_classification":
            if self.config.task.type == "relation_extraction":
                return "relations"
            return "numbers" if self.model.classifier.units == 1 else "classes"
        return {"token_classification": "tags", "span": "answers"}.get(head)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The classes, relations or tags that it tells apart, in the order of their logits; None where it does not."""
        if self.tells not in ("classes", "relations", "tags"):
            return None
        return self.model.class_names or tuple(map(str, range(self.model.classifier.units)))

    def classify(self, texts: Any) -> Any:
        """The class of each text, from a model that was trained to tell classes apart.

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
        names = self._names("classes", "this model classifies no texts")
        if isinstance(texts, str):
            return self.classify([texts])[0]
        logits = text_logits(self.model, self.tokenizer, texts, template=self._template)
        if self.model.multi_label:
            by_name = [dict(zip(names, map(float, row), strict=True)) for row in tf.sigmoid(logits).numpy()]
            return [{"labels": [n for n in names if row[n] > 0.5], "scores": row} for row in by_name]
        return _likeliest(logits, names)

    def relate(self, texts: Any, heads: Any, tails: Any) -> Any:
        """How two places of each text are related, from a model that was trained to tell.

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
        names = self._names("relations", "this model tells no relations")
        if isinstance(texts, str):
            return self.relate([texts], [heads], [tails])[0]
        if not len(texts) == len(heads) == len(tails):
            raise GenerationError("give a head and a tail for each text")
        return _likeliest(relation_logits(self.model, self.tokenizer, texts, heads, tails), names)

    def regress(self, texts: Any) -> Any:
        """The number of each text, from a model that was trained to tell one.

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
        self._check("numbers", "this model tells no number from a text")
        if isinstance(texts, str):
            return float(self.regress([texts])[0])
        return text_logits(self.model, self.tokenizer, texts, template=self._template)[:, 0]

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
        names = self._names("tags", "this model tags no words")
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
        names = self._names("tags", "this model tags no words")
        if sentences and isinstance(sentences[0], str):
            return self.tag([sentences])[0]
        return tags(self.model, self.tokenizer, sentences, names)

    def answer(self, questions: Any, contexts: Any, *, unanswerable: bool | None = None) -> Any:
        """The answer to each question in its context, from an encoder that was trained to find it.

        Args:
            questions: A question, or a list of them.
            contexts: Its context, or a list, one for each; what is longer than the model's context is read in windows.
            unanswerable: Give no answer where none is likelier; None is as it was trained.

        Returns:
            `answer`, empty where there is none; its first character in the context, `start`, and the one behind its
            last, `end`; its probability among all spans, `score`; and by how much none is likelier, `null_odds`, in
            nats; or a list of these.

        Raises:
            GenerationError: when the model finds no answers, or there are not as many contexts as questions.
            DataError: when a question leaves no room for its context.

        Example:
            >>> lm = tfllm.load("runs/qa")
            >>> lm.answer("Who wrote it?", "It was written by Ada in 1843.")["answer"]
        """
        self._check("answers", "this model finds no answers")
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

    @property
    def _template(self) -> str | None:
        return getattr(self.config.task, "template", None)

    def _check(self, told: str, otherwise: str) -> None:
        if self.tells != told:
            mend = f"train one with task.type={_TAUGHT[told][0]}"
            if self.tells is not None:
                mend = f"take lm.{_TAUGHT[self.tells][1]}, or {mend}"
            raise GenerationError(f"{otherwise}; {mend}")

    def _names(self, told: str, otherwise: str) -> tuple[str, ...]:
        self._check(told, otherwise)
        return self.class_names or ()


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

"""What a training would meet at its end, or rarely: looked at as soon as there are a tokenizer and a task."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfllm.config import ConfigError, ExperimentConfig, Problem
from tfllm.experiment.stop_tokens import named_ids
from tfllm.generation.errors import GenerationError
from tfllm.tokenizers import Tokenizer, TokenizerError
from tfllm.tokenizers.chat import ChatTemplate
from tfllm.tokenizers.chat.ends import EXAMPLE, turn_ends

_MARK = re.compile(r"<\|[^|<>\s]{1,40}\|>|<(?:start|end)_of_turn>")


def check_late(config: ExperimentConfig, tokenizer: Tokenizer, task: Any, export: Path) -> None:
    """Looks at prompts, stop tokens, the best metric and the export, which come after hours of training.

    Args:
        config: The experiment, its model expanded.
        tokenizer: Its tokenizer.
        task: Its task, which names metrics and their directions.
        export: The folder of exported versions.

    Raises:
        ConfigError: with all that would fail.
    """
    problems = [
        *_prompt_problems(config, tokenizer, task),
        *_stop_problems(config, tokenizer),
        *_metric_problems(config, task),
        *_export_problems(config, tokenizer, export),
    ]
    if problems:
        raise ConfigError(problems, "the config")


def best_metric(config: ExperimentConfig, task: Any) -> tuple[str, str] | None:
    """The metric whose best checkpoint is kept, and `min` or `max`; None where none is asked for."""
    metric = config.training.best_metric
    return None if metric is None else (metric, task.metric_modes[metric])


def sample_ids(config: ExperimentConfig, tokenizer: Tokenizer, task: Any, prompt: str) -> list[int]:
    """The ids of one of `generation.prompts`: what a decoder goes on with, or an encoder reads whole; of a task that
    writes texts to sources it is a source."""
    if hasattr(task, "prompt_ids"):
        return list(task.prompt_ids(prompt))
    suffix = tokenizer.suffix_ids if config.model.kind == "encoder_decoder" else ()
    return [*tokenizer.prefix_ids, *tokenizer.encode(prompt), *suffix]


def template_notices(tokenizer: Tokenizer) -> list[str]:
    """What a chat template does that is no mistake for certain: lines to be told before a training."""
    notices = []
    if not turn_ends(tokenizer):
        notices.append(
            "the chat template writes no special token behind an answer, so the model learns no end of a turn and will"
            " write on; take a template that does, e.g. {{ eos_token }}"
        )
    with contextlib.suppress(TokenizerError):
        text = ChatTemplate.of(tokenizer).render(EXAMPLE)
        known = {token.content for token in tokenizer.added_tokens} | set(tokenizer.special_tokens)
        marks = sorted(set(_MARK.findall(text)) - known)
        if marks:
            notices.append(
                f"the chat template writes {', '.join(marks)}, which is no token of this tokenizer but text, which a"
                f" user may write too; write tokenizer.extra_special_tokens: {marks}"
            )
    return notices


def _prompt_problems(config: ExperimentConfig, tokenizer: Tokenizer, task: Any) -> Iterator[Problem]:
    new, context = config.generation.max_new_tokens, config.context_length
    rows = config.model.vocab_size or tokenizer.vocab_size
    reads_whole = config.model.kind == "encoder_decoder"
    for index, prompt in enumerate(config.generation.prompts):
        path = f"generation.prompts[{index}]"
        try:
            ids = sample_ids(config, tokenizer, task, prompt)
        except TokenizerError as error:
            yield Problem(path, prompt, f"cannot be encoded: {error}")
            continue
        if not ids:
            yield Problem(path, prompt, "has no tokens", "write some text, or leave it out")
        elif reads_whole and len(ids) > context and not config.context_is_open:
            rule = f"has {len(ids)} tokens, which exceeds the context of {context}"
            yield Problem(path, prompt, rule, "shorten the prompt, or raise model.max_seq_len")
        elif not reads_whole and len(ids) + new > context:
            room = context - len(ids)
            rule = f"has {len(ids)} tokens; with generation.max_new_tokens={new} it exceeds the context of {context}"
            mend = f"write generation.max_new_tokens={room} or less" if room > 0 else "shorten the prompt"
            yield Problem(path, prompt, rule, mend)
        elif max(ids) >= rows:
            label = tokenizer.token_label(max(ids))
            rule = f"holds the token {label} with id {max(ids)}, and the model has rows for ids below {rows}"
            yield Problem(
                path, prompt, rule, f"write model.vocab_size={tokenizer.vocab_size}, or leave the token out"
            )


def _stop_problems(config: ExperimentConfig, tokenizer: Tokenizer) -> Iterator[Problem]:
    for index, name in enumerate(config.generation.stop_tokens):
        try:
            named_ids(tokenizer, [name])
        except GenerationError as error:
            rule = str(error).removeprefix(f"generation.stop_tokens: {name!r} ")
            yield Problem(f"generation.stop_tokens[{index}]", name, rule)


def _metric_problems(config: ExperimentConfig, task: Any) -> Iterator[Problem]:
    metric, mode = config.training.best_metric, config.training.best_mode
    modes, asked = task.metric_modes, config.evaluation.metrics
    for path, name in (("training.best_metric", metric), *(("evaluation.metrics", name) for name in asked)):
        if name is not None and name not in modes:
            near = difflib.get_close_matches(name, modes, 1, 0.0)
            mend = f"write one of {', '.join(modes)}" + (f"; perhaps {near[0]}" if len(modes) > 1 else "")
            yield Problem(path, name, f"is not a metric of task.type={config.task.type}", mend)
    if metric is None or metric not in modes:
        return
    if asked and metric not in (*asked, "loss"):
        rule = f"is none of evaluation.metrics={', '.join(asked)}"
        yield Problem("training.best_metric", metric, rule, "name it there too")
    elif mode not in (None, modes[metric]):
        rule = f"contradicts training.best_metric={metric}, which is best at its {modes[metric]}"
        yield Problem("training.best_mode", mode, rule, "leave it out: the metric knows")


def _export_problems(config: ExperimentConfig, tokenizer: Tokenizer, folder: Path) -> Iterator[Problem]:
    if not config.export.at_end:
        return
    if folder.exists() and not (folder.is_dir() and os.access(folder, os.W_OK)):
        rule = f"goes to {folder}, which is no folder that can be written"
        yield Problem("export.at_end", True, rule, "move away what is there")
    try:
        tokenizer.in_graph()
    except TokenizerError as error:
        yield Problem("export.at_end", True, f"cannot be: {error}", "write export.at_end=false")

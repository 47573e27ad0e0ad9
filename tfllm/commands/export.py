"""The command tfllm export."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from tfllm.commands.arguments import add_model
from tfllm.commands.start import start_tensorflow
from tfllm.config.home import expand_home
from tfllm.config.template import split_template
from tfllm.export.errors import ExportError

SUMMARY = "write a text-in, text-out SavedModel for TensorFlow Serving."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_model(parser)
    parser.add_argument(
        "--to", metavar="DIR", help="parent of the version folders (default, for a run: RUN/export)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Exports and prints the folder."""
    print(export_run(arguments.run, arguments.to))
    return 0


def export_run(run_dir: str | Path, to: str | Path | None = None) -> Path:
    """Exports a model into the next version folder and returns it.

    Raises:
        ExportError: when a checkpoint of another library is to be exported, and nobody says where to.
    """
    start_tensorflow()
    from tfllm.experiment.origins.origin import origin_of
    from tfllm.language_model.load import load_origin
    from tfllm.training.tensor_bundle import PATTERN

    origin = origin_of(run_dir)
    if to is not None:
        folder = expand_home(to, "--to")
    elif origin.run_folder is not None:
        folder = origin.run_folder.export
    else:
        raise ExportError(f"{run_dir} is not the folder of a run; say with --to DIR where the export goes")
    lm = load_origin(origin)
    exported = _exported(lm, folder)
    if PATTERN.intersection(str(exported.absolute())):
        print(
            f"TensorFlow takes {exported} for a pattern, and loads nothing from it: copy the folder to a path without"
            " * ? [ ] before it is served",
            file=sys.stderr,
        )
    return exported


def _exported(lm: Any, folder: Path) -> Path:
    """What the model does decides what is served: classes or numbers of texts, or their continuation."""
    lm = lm.merged()
    if lm.tells in ("relations", "tags", "answers"):
        raise ExportError(
            f"a model that tells {lm.tells} of texts is not exported; call it from Python, or by tfllm predict"
        )
    pairs, template = (getattr(lm.config.task, key, None) for key in ("pairs", "template"))
    if pairs and template is not None:
        raise ExportError(
            "a model of pairs in a template is not exported; call it from Python, or by tfllm predict"
        )
    around: tuple[str, str] | None = None
    if template is not None and pairs is not None:
        before, behind = split_template(template, "text")
        around = before, behind
    if lm.tells == "numbers":
        from tfllm.export.regressor import export_regressor

        return export_regressor(lm.model, lm.tokenizer, folder, pairs=bool(pairs), around=around)
    if lm.tells == "classes":
        from tfllm.export.classifier import export_classifier

        names = lm.class_names
        return export_classifier(
            lm.model, lm.tokenizer, folder, class_names=names, pairs=bool(pairs), around=around
        )
    if lm.tells is None and getattr(lm.config.model, "kind", "") == "encoder":
        return _exported_embedder(lm, folder)
    from tfllm.experiment.stop_tokens import stop_ids
    from tfllm.export.saved_model import export_saved_model

    return export_saved_model(
        lm.model,
        lm.tokenizer,
        folder,
        generation=lm.config.generation,
        stop_ids=stop_ids(lm.tokenizer, lm.config.generation.stop_tokens),
        max_new_tokens=lm.config.export.max_new_tokens,
    )


def _exported_embedder(lm: Any, folder: Path) -> Path:
    """What `lm.embed` says, where a graph can."""
    from tfllm.export.embedder import export_embedder

    modules = lm.sentence_modules
    if modules is None:
        return export_embedder(lm.model, lm.tokenizer, folder)
    poolings = {"mean": "mean", "cls": "first", "lasttoken": "last"}
    [pooling, *others] = modules.poolings
    for name, is_there in (
        (f"pooling {', '.join(modules.poolings)}", bool(others) or pooling not in poolings),
        ("layers behind the pooling", modules.layers not in ((), (None,))),
        ("do_lower_case", modules.do_lower_case),
        ("texts cut at their beginning", modules.cut_left),
        ("prompts that are not pooled", bool(modules.prompts) and not modules.include_prompt),
    ):
        if is_there:
            raise ExportError(f"a sentence encoder with {name} is not exported; call lm.embed from Python")
    return export_embedder(
        lm.model,
        lm.tokenizer,
        folder,
        pooling=poolings[pooling],
        normalize=modules.normalizes,
        max_seq_len=modules.max_seq_length,
        prompt=modules.prompts.get(modules.default_prompt or "", ""),
    )

"""What a trained model reaches on text that was held out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfllm.config import ExperimentConfig
from tfllm.data.mixture import RowMixture
from tfllm.data.store import RowStore
from tfllm.evaluation.bootstrap import intervals
from tfllm.evaluation.evaluator import Evaluation
from tfllm.evaluation.predictions import Prediction
from tfllm.experiment.origins.origin import origin_of
from tfllm.experiment.parts import make_evaluator, make_task
from tfllm.experiment.pictures import draw_confusion
from tfllm.experiment.reference import give_reference, model_at_start
from tfllm.experiment.run_folder import RunFolder
from tfllm.experiment.source import has_test
from tfllm.experiment.text import held_out_rows
from tfllm.experiment.text_places import located
from tfllm.tokenizers import Tokenizer
from tfllm.training.checkpoint_folder import checkpoint_paths, read_best
from tfllm.training.metrics_log import metrics_line


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a model reaches on a side of a text.

    Args:
        task: Its task.
        rows: The side.
        evaluation: Metrics, and what was said of each example.
    """

    task: Any
    rows: RowStore | RowMixture
    evaluation: Evaluation

    @property
    def of_examples(self) -> Sequence[str]:
        """The metrics that are made of predictions of examples, of which intervals can be told."""
        names = getattr(self.task, "of_examples", ())
        return [name for name in names if name in self.evaluation.metrics]

    def metrics(self, predictions: Sequence[Prediction]) -> Mapping[str, float]:
        """The metrics of other predictions of these rows, such as a sample of them."""
        return self.task.evaluation_metrics(self.evaluation.sums, predictions)

    @property
    def signatures(self) -> dict[str, str]:
        """How metrics were computed that are computed in many ways, by name."""
        if not self.evaluation.predictions or not hasattr(self.task, "signatures"):
            return {}
        return dict(self.task.signatures(self.evaluation.predictions))

    def intervals(self, samples: int) -> dict[str, list[float]]:
        """The 95% intervals of the metrics that are made of predictions."""
        return intervals(self.metrics, self.evaluation.predictions, self.of_examples, samples=samples)


def measure(
    config: ExperimentConfig, model: Any, tokenizer: Tokenizer, side: str, *, run: RunFolder | None = None
) -> Measured:
    """Evaluates a model on one side of a config's text.

    Args:
        config: The experiment, its paths as seen from here.
        model: The model.
        tokenizer: Its tokenizer.
        side: validation or test.
        run: Where the model was trained, which keeps what a loss of preferences compares with.

    Raises:
        ConfigError, DataError: when there is no such text.
    """
    rows = held_out_rows(config, tokenizer, side)
    task = make_task(config, tokenizer)
    if getattr(task, "needs_reference", False):
        give_reference(
            config,
            task,
            [rows],
            path=None if run is None else run.reference,
            at_start=lambda: model_at_start(config, tokenizer),
            writes=run is not None,
        )
    return Measured(
        task, rows, make_evaluator(config, model, task, rows, tokenizer=tokenizer, side=side).run()
    )


def chosen_by(run: RunFolder, step: int) -> str | None:
    """What chose the checkpoint of a step, such as `validation accuracy`; None where it is the last one."""
    best = read_best(run.checkpoints)
    return f"validation {best['metric']}" if best is not None and best["step"] == step else None


def final_test(folder: Path, *, notify: Callable[[str], None] = print) -> None:
    """Evaluates what a run has learned, by the checkpoint that validation chose, once on the text to test on.

    What comes of it is in the run's `test.json`, with the checkpoint's step; of the same checkpoint nothing is done
    again. Nothing is done where there is no such text, but for a task that tells one class of each text: of these a
    picture shows which were taken for which, on the text to test on, or else to validate on.

    Args:
        folder: The run folder.
        notify: Receives one line.
    """
    run = RunFolder(folder)
    origin = origin_of(folder)
    config = located(origin.config(), run)
    side = "test" if has_test(config) else "validation"
    picture = run.pictures / f"confusion_{side}.png"
    tells_one = config.task.labels == "classes" and not config.task.multi_label
    if side == "validation" and (not tells_one or _is_newest(picture, run)):
        return
    model, step = origin.load("float32", notify=notify)
    found: dict[str, Any] = {"step": step, "split": "test", "chosen_by": chosen_by(run, step)}
    if side == "test" and _is_there(run.test, found):
        return
    measured = measure(config, model, origin.tokenizer, side, run=run)
    draw_confusion(picture, measured.task, measured.evaluation.predictions, side, notify=notify)
    if side == "validation":
        return
    found |= measured.evaluation.metrics
    samples = config.evaluation.bootstrap_samples
    spans = measured.intervals(samples) if samples else {}
    more = {"intervals": spans, "signatures": measured.signatures}
    part = run.test.with_suffix(".part")
    part.write_text(
        metrics_line({**found, **{name: value for name, value in more.items() if value}}), encoding="utf-8"
    )
    part.replace(run.test)
    told = ", ".join(
        f"{name} {value:.4g}" + (f" [{spans[name][0]:.4g}, {spans[name][1]:.4g}]" if name in spans else "")
        for name, value in measured.evaluation.metrics.items()
    )
    notify(f"test (step {step}, {found['chosen_by'] or 'the last'}): {told}")


def _is_newest(picture: Path, run: RunFolder) -> bool:
    """Whether no checkpoint was written since."""
    written = [path.stat().st_mtime for path in checkpoint_paths(run.checkpoints)]
    return picture.exists() and picture.stat().st_mtime >= max(written, default=0.0)


def _is_there(path: Path, found: Mapping[str, Any]) -> bool:
    try:
        there = json.loads(path.read_bytes())
        return all(there[name] == value for name, value in found.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False

"""The end of a training that no longer gets better."""

from __future__ import annotations

import math

from tfllm.training.callbacks import TrainerState


class EarlyStopping:
    """Counts evaluations, in the trainer's state, since the one whose metric was best.

    Args:
        best: The validation metric, and `min` or `max`.
        patience: Evaluations without a better one after which the training has ended.
    """

    def __init__(self, best: tuple[str, str], patience: int):
        (self.metric, self.mode), self.patience = best, patience

    def count(self, state: TrainerState) -> None:
        """Looks at the evaluation of this very step, if there was one; a metric that is no number is not better."""
        if state.validated_step != state.step or state.judged_step == state.step:
            return
        state.judged_step = state.step
        value = state.validation.get(self.metric, math.nan)
        sign = 1.0 if self.mode == "max" else -1.0
        if not math.isnan(value) and (state.best_value is None or sign * value > sign * state.best_value):
            state.best_value, state.waited = value, 0
        else:
            state.waited += 1

    def ended(self, state: TrainerState) -> bool:
        """Whether it has got no better for so long."""
        return state.waited >= self.patience

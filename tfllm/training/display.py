"""What a run shows on the terminal: a bar where someone watches, lines where a file does."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from tqdm import tqdm

from tfllm.training.callbacks import TrainerState
from tfllm.training.lasting_stream import LastingStream

# In metrics.jsonl and TensorBoard, but not on the terminal.
_HIDDEN = ("step", "split", "tokens", "useful_tokens_per_second", "update_ratio", "input_wait", "memory_gb")


class Display:
    """A progress bar with step, loss, tokens a second and time left; plain lines when not a terminal.

    A stream that breaks or closes, as when a terminal hangs up, ends what is shown and nothing else.

    Args:
        total_steps: Updates in the whole run.
        stream: Where to write; None is what `sys.stderr` is then.
        silent: Show nothing: one of several workers is enough to watch.
    """

    def __init__(self, *, total_steps: int, stream: TextIO | None = None, silent: bool = False):
        self.total_steps = total_steps
        self.silent = silent
        self.stream: Any = LastingStream(stream or sys.stderr)
        self.is_terminal = self.stream.isatty() and not silent
        self._bar: tqdm | None = None

    def start(self, state: TrainerState) -> None:
        """Shows the bar."""
        if self.is_terminal:
            self._bar = tqdm(
                total=self.total_steps,
                initial=state.step,
                desc="training",
                unit="step",
                dynamic_ncols=True,
                file=self.stream,
            )

    def progress(self, state: TrainerState) -> None:
        """Moves the bar to `state.step`."""
        if self._bar is not None:
            self._bar.update(state.step - self._bar.n)

    def entry(self, entry: dict[str, Any]) -> None:
        """Shows a line of metrics."""
        if entry["split"] == "train" and self._bar is not None:
            rate = entry["tokens_per_second"]
            self._bar.set_postfix_str(f"loss {entry['loss']:.3f}, {rate:,.0f} tokens/s")
            return
        shown = {k: v for k, v in entry.items() if k not in _HIDDEN and not k.endswith("seconds")}
        numbers = ", ".join(f"{k} {v:.5g}" for k, v in shown.items() if v is not None)
        self.notice(f"step {entry['step']}/{self.total_steps} {entry['split']}: {numbers}")

    def notice(self, text: str) -> None:
        """Shows one line of text."""
        if self._bar is not None:
            self._bar.write(text, file=self.stream)
        elif not self.silent:
            print(text, file=self.stream, flush=True)

    def stop(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

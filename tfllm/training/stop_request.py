"""Being asked to stop: Ctrl-C, a scheduler's signals, and the notices of Google Cloud's metadata server."""

from __future__ import annotations

import http.client
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

_REASONS = {
    signal.SIGINT: "Ctrl-C",
    signal.SIGTERM: "SIGTERM",
    signal.SIGUSR1: "SIGUSR1",
    signal.SIGHUP: "SIGHUP",
}
# Metadata key: the value that announces the machine's end, and the reason in words. MIGRATE_ON_HOST_MAINTENANCE
# is left out: the machine goes on elsewhere.
_NOTICES = {
    "preempted": ("TRUE", "preemption by Google Cloud"),
    "maintenance-event": ("TERMINATE_ON_HOST_MAINTENANCE", "host maintenance by Google Cloud"),
}
_INTERRUPTED, _TERMINATED = 130, 143
_HOLD_SECONDS = 60


class StopRequest:
    """While entered, turns what announces the end of the process into a request that the training loop reads.

    SIGINT (the first; a second interrupts as usual), SIGTERM, SIGUSR1 (which Slurm sends ahead of the end
    with `--signal=USR1@60`) and SIGHUP (the terminal, or the connection to it, is gone; ignored where `nohup`
    has it ignored) become requests; outside the main thread, where Python takes no signals, they stay as they
    are. Enter it after the strategy is made: TensorFlow's coordination service sets a handler for SIGTERM of its
    own.

    With `notice="gce"` a thread for each key waits for Google Cloud's metadata server to announce a preemption
    or the termination for host maintenance
    (https://cloud.google.com/compute/docs/instances/create-use-spot#detect-preemption,
    https://cloud.google.com/compute/docs/metadata/getting-live-migration-notice: 60 seconds ahead, and only
    to those who have asked before).

    Args:
        notice: `signals`, or `gce` for the metadata server too.
        server: The metadata server's address.
        retry_seconds: Between two attempts to reach it.
        notify: Called with one line, once, when it cannot be reached.

    Example:
        >>> with StopRequest() as stop:
        ...     while not stop.requested():
        ...         step()
    """

    def __init__(
        self,
        *,
        notice: str = "signals",
        server: str = "http://metadata.google.internal",
        retry_seconds: float = 60.0,
        notify: Callable[[str], None] = print,
    ):
        if notice not in ("signals", "gce"):
            raise ValueError(f"notice={notice!r} must be 'signals' or 'gce'")
        self.notice = notice
        self.server = server
        self.retry_seconds = retry_seconds
        self.notify = notify
        self._reason: str | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._left = threading.Event()
        self._unreachable = threading.Lock()

    def requested(self) -> str | None:
        """Why to stop, e.g. `Ctrl-C`, `SIGTERM`; None to go on. The first reason stays."""
        return self._reason

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in _REASONS:
                if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                    continue
                self._previous[number] = signal.signal(number, self._on_signal)
        if self.notice == "gce":
            for key in _NOTICES:
                threading.Thread(target=self._watch, args=(key,), daemon=True, name=f"notice {key}").start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        for number in self._previous:
            self._give_back(number)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._request(_REASONS[signal.Signals(number)])
        if number == signal.SIGINT:
            self._give_back(signal.SIGINT)

    def _give_back(self, number: signal.Signals) -> None:
        # None stands for a handler that was not set from Python, and cannot be set from there either.
        previous = self._previous[number]
        signal.signal(number, signal.SIG_DFL if previous is None else previous)

    def _request(self, reason: str) -> None:
        self._reason = self._reason or reason

    def _watch(self, key: str) -> None:
        awaited, reason = _NOTICES[key]
        # The first answer comes at once; then each is held back until the value is another than the last one.
        tag = ""
        while not self._left.is_set():
            try:
                value, tag = self._ask(key, tag)
            except (OSError, http.client.HTTPException) as error:
                self._say_unreachable(error)
                tag = ""
                self._left.wait(self.retry_seconds)
                continue
            if value == awaited:
                self._request(reason)
                return

    def _ask(self, key: str, tag: str) -> tuple[str, str]:
        address = f"{self.server}/computeMetadata/v1/instance/{key}"
        if tag:
            address += f"?wait_for_change=true&last_etag={tag}&timeout_sec={_HOLD_SECONDS}"
        request = urllib.request.Request(address, headers={"Metadata-Flavor": "Google"})
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=_HOLD_SECONDS + 10) as answer:
            # Without a tag the next answer would come at once too: then once in a second is often enough.
            tag = answer.headers.get("ETag", "")
            if not tag:
                self._left.wait(1.0)
            return answer.read().decode().strip(), tag

    def _say_unreachable(self, error: Exception) -> None:
        if self._unreachable.acquire(blocking=False):  # never released: said once
            reason = getattr(error, "reason", None) or error
            self.notify(
                f"Google Cloud's metadata server at {self.server} gives no answer ({reason}); a preemption"
                f" will not be noticed until it does. Elsewhere than on Google Cloud set"
                f" training.preemption_notice: signals"
            )


def exit_code(reason: str) -> int:
    """The process's exit status after a stop: 130 after Ctrl-C, else 143.

    143 is what a process ended by SIGTERM has, and what `tf.distribute.experimental.TerminationConfig`
    uses on Google Cloud: schedulers take it for "terminated, start again".

    Args:
        reason: From `StopRequest.requested`.
    """
    return _INTERRUPTED if reason == _REASONS[signal.SIGINT] else _TERMINATED

import http.server
import os
import signal
import threading
import time
import urllib.parse

import pytest

from tfllm.training.stop_request import StopRequest, exit_code

SIGNALS = {
    signal.SIGINT: "Ctrl-C",
    signal.SIGTERM: "SIGTERM",
    signal.SIGUSR1: "SIGUSR1",
    signal.SIGHUP: "SIGHUP",
}


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_a_request_and_the_handlers_come_back(number):
    before = {n: signal.getsignal(n) for n in SIGNALS}
    with StopRequest() as stop:
        assert stop.requested() is None
        os.kill(os.getpid(), number)
        assert stop.requested() == SIGNALS[number]
    assert {n: signal.getsignal(n) for n in SIGNALS} == before


def test_a_second_ctrl_c_interrupts_and_the_first_reason_stays():
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested() == "SIGTERM"


def test_nohup_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.requested() is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_leaves_the_handlers_alone():
    before = {n: signal.getsignal(n) for n in SIGNALS}
    seen = []

    def work():
        with StopRequest() as stop:
            seen.append(({n: signal.getsignal(n) for n in SIGNALS}, stop.requested()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, None)]


@pytest.mark.parametrize(
    ("reason", "code"),
    [("Ctrl-C", 130), ("SIGTERM", 143), ("SIGUSR1", 143), ("SIGHUP", 143), ("preemption", 143)],
)
def test_the_exit_code_says_who_asked(reason, code):
    assert exit_code(reason) == code


def test_tensorflow_calls_143_restartable_too():
    from tensorflow.python.distribute.failure_handling import failure_handling_util

    with pytest.raises(SystemExit) as ended:
        failure_handling_util.gce_exit_fn()
    assert ended.value.code == exit_code("SIGTERM")


class Metadata:
    """A metadata server of this machine, as Google's answers: held back until the value changes."""

    def __init__(self):
        self.values = {"preempted": "FALSE", "maintenance-event": "NONE"}
        self.changed = threading.Condition()
        self.requests = []
        metadata = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                metadata.answer(self)

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def answer(self, handler):
        assert handler.headers["Metadata-Flavor"] == "Google"
        parts = urllib.parse.urlsplit(handler.path)
        folder, _, key = parts.path.rpartition("/")
        query = dict(urllib.parse.parse_qsl(parts.query))
        assert folder == "/computeMetadata/v1/instance"
        with self.changed:
            self.requests.append((key, query))
            if query.get("wait_for_change") == "true":
                seen = query["last_etag"]
                self.changed.wait_for(lambda: self.values[key] != seen, float(query["timeout_sec"]))
            value = self.values[key]
        handler.send_response(200)
        handler.send_header("ETag", value)
        handler.end_headers()
        handler.wfile.write(value.encode())

    def set(self, key, value):
        with self.changed:
            self.values[key] = value
            self.changed.notify_all()


@pytest.fixture
def metadata(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # must not be asked for it
    metadata = Metadata()
    yield metadata
    metadata.set("preempted", "END")
    metadata.set("maintenance-event", "END")
    metadata.server.shutdown()


def reason_within(stop, seconds):
    end = time.monotonic() + seconds
    while stop.requested() is None and time.monotonic() < end:
        time.sleep(0.01)
    return stop.requested()


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("preempted", "TRUE", "preemption by Google Cloud"),
        ("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE", "host maintenance by Google Cloud"),
    ],
)
def test_google_clouds_notice_is_a_request(metadata, key, value, reason):
    notices = []
    with StopRequest(notice="gce", server=metadata.address, notify=notices.append) as stop:
        # A migration moves the machine without an end.
        metadata.set("maintenance-event", "MIGRATE_ON_HOST_MAINTENANCE")
        assert reason_within(stop, 0.3) is None
        metadata.set(key, value)
        assert reason_within(stop, 5.0) == reason
    assert not notices
    # Held back, not asked over and over.
    assert 4 <= len(metadata.requests) <= 6


def test_a_notice_given_before_is_seen_at_once(metadata):
    metadata.set("preempted", "TRUE")
    with StopRequest(notice="gce", server=metadata.address) as stop:
        assert reason_within(stop, 5.0) == "preemption by Google Cloud"


def test_signals_alone_ask_no_server(metadata):
    with StopRequest(server=metadata.address) as stop:
        assert reason_within(stop, 0.1) is None
    assert not metadata.requests


def test_an_unreachable_server_is_said_once_and_asked_again():
    notices = []
    late = Metadata()
    late.set("preempted", "TRUE")
    server, address = late.server, late.address
    server.shutdown()
    server.server_close()
    settings = {"notice": "gce", "server": address, "retry_seconds": 0.05, "notify": notices.append}
    with StopRequest(**settings) as stop:
        assert reason_within(stop, 0.5) is None
        assert len(notices) == 1
        assert f"{address} gives no answer" in notices[0]
        assert "Connection refused" in notices[0]
        again = http.server.ThreadingHTTPServer(server.server_address, server.RequestHandlerClass)
        threading.Thread(target=again.serve_forever, args=(0.05,), daemon=True).start()
        assert reason_within(stop, 5.0) == "preemption by Google Cloud"
    late.set("maintenance-event", "END")
    again.shutdown()
    again.server_close()
    assert len(notices) == 1


def test_unknown_notices_are_refused():
    with pytest.raises(ValueError, match="notice='aws' must be 'signals' or 'gce'"):
        StopRequest(notice="aws")

"""`Connection`: the line that says that answers are late, for all clients of a command."""

from __future__ import annotations

import io
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.client.cli.test_rules import silent_server
from tests.support.wait_until import wait_until
from tinkex import APIConnectionError, APITimeoutError, events
from tinkex.cli import connection as connection_module
from tinkex.cli.connection import Connection
from tinkex.cli.output import Output

_STARTED = events.HttpRequestStart(operation="o")
_ANSWERED = events.HttpRequestStop(operation="o", status=200, seconds=0.1)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Returns what a command's stderr shows of a wait that is worth a line after 0.3 seconds."""
    monkeypatch.setattr(connection_module, "_WAIT", 0.3)
    monkeypatch.setenv("TINKEX_TIMEOUT", "2")
    monkeypatch.setenv("TINKEX_RETRY_MAX_ATTEMPTS", "1")
    return io.StringIO()


def test_a_wait_of_two_clients_is_one_line(shown: io.StringIO) -> None:
    with (
        silent_server() as url,
        Connection(Output("plain", (), err=shown), url, api_key="tml-x") as connection,
        ThreadPoolExecutor(2) as threads,
    ):
        clients = connection.rest, connection.admin
        asked = [
            threads.submit(clients[0].get_server_capabilities),
            threads.submit(clients[1].get_current_checkpoint_storage_usage),
        ]
        errors = [future.exception(timeout=30) for future in asked]
    assert all(isinstance(error, (APIConnectionError, APITimeoutError)) for error in errors)
    said = [line for line in shown.getvalue().splitlines() if line.startswith("Waiting")]
    assert said == [
        f"Waiting for {url}: no answer yet. Each request may take 2 s; Ctrl-C stops it."
    ]


def test_an_answer_to_one_request_does_not_hide_that_another_waits(shown: io.StringIO) -> None:
    with Connection(Output("plain", (), err=shown), "http://x", api_key="tml-x") as connection:
        _ = connection.rest
        events.publish(_STARTED)
        events.publish(_STARTED)
        events.publish(_ANSWERED)
        wait_until(lambda: bool(shown.getvalue()))


def test_answers_that_keep_coming_need_no_line(shown: io.StringIO) -> None:
    with Connection(Output("plain", (), err=shown), "http://x", api_key="tml-x") as connection:
        _ = connection.rest
        events.publish(_STARTED)  # a long poll
        for _ in range(8):
            events.publish(_STARTED)
            time.sleep(0.1)  # a third of the wait that is worth a line
            events.publish(_ANSWERED)
        events.publish(_ANSWERED)
        time.sleep(0.5)  # for a line that should not come
    assert shown.getvalue() == ""

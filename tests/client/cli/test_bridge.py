"""`tinkex bridge`, as a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from tests.support.programs import running
from tinkex.local import Server


def command(tmp_path: Path, *words: str) -> Sequence[str]:
    return [sys.executable, "-m", "tinkex", "bridge", f"--data-dir={tmp_path}", *words]


def test_it_says_what_a_program_needs_and_ends_at_the_first_ctrl_c(
    server: Server, tmp_path: Path
) -> None:
    words = command(tmp_path, "--port=0", f"--upstream={server.base_url}", "--route=a/*=http://b")
    with running(words, stdout=subprocess.PIPE) as process:
        assert process.stdout
        lines = [process.stdout.readline().strip() for _ in range(9)]
        url = lines[0].split()[2]
        body = {"tags": [], "user_metadata": {}, "sdk_version": "1"}
        assert httpx.post(f"{url}/api/v1/create_session", json=body).status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
    assert lines[1:4] == [
        "a/*  to http://b",
        f"models  to {server.base_url}",
        "keys    the caller's own",
    ]
    assert f"export TINKER_BASE_URL={url}" in lines


def test_a_server_that_is_not_there_yet_is_named_and_waited_for(tmp_path: Path) -> None:
    words = command(tmp_path, "--port=0", "--upstream=http://127.0.0.1:9")
    with running(words, stderr=subprocess.PIPE) as process:
        assert process.stderr
        told = next(line for line in process.stderr if line.strip())
        assert "http://127.0.0.1:9 does not answer yet" in told
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--upstream=nowhere"], "'nowhere' is not the URL of a server"),
        (["--upstream=http://x", "--route=Qwen"], "'Qwen' is not a route"),
        (["--upstream=http://x", "--host=0.0.0.0", "--api-key=tml-x"], "could use the servers"),
    ],
)
def test_what_cannot_be_is_one_line(words: Sequence[str], told: str, tmp_path: Path) -> None:
    done = subprocess.run(command(tmp_path, *words), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr

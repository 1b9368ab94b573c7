"""`tinkex serve`, as a process of its own."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click.testing
import httpx
import pytest

from tests.support.programs import running
from tinkex.cli import main


@pytest.mark.parametrize("module", ["tinkex", "tinkex.cli"])
def test_the_command_runs_as_a_module(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout.splitlines()[0]) == (
        0,
        "Usage: tinkex [OPTIONS] COMMAND [ARGS]...",
    )


@pytest.mark.usefixtures("new_interpreters")
def test_it_says_all_that_a_client_needs(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tinkex",
        "serve",
        "--port=0",
        f"--data-dir={tmp_path}",
        "--profile=skyrl",
    ]
    with running(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        lines = [process.stdout.readline().rstrip("\n") for _ in range(9)]
        url = lines[0].split()[2]
        assert httpx.get(f"{url}/api/v1/healthz").status_code == 200
        later = [process.stdout.readline().rstrip("\n") for _ in range(4)]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
    said = [line.strip() for line in lines]
    assert said[1] == "model    tinkex/tiny: Qwen3ForCausalLM, 1024 tokens of context"
    assert said[2].startswith(f"data     {tmp_path}: ")
    assert said[2].endswith(" kB of database, 0 B of checkpoints, 0 B of samplers")
    assert said[3:5] == [
        "profile  skyrl",
        "status   at this address in a browser; the API reference is at /docs",
    ]
    assert said[7:] == [f"export TINKER_BASE_URL={url}", "export TINKER_API_KEY=tml-local"]
    assert later[:3] == ["", "The engine is starting; requests wait until it is ready.", ""]
    assert re.fullmatch(r"Ready after \d+\.\d s: torch on \w+, (float32|bfloat16)", later[3])


@pytest.fixture
def same_sigterm() -> Iterator[None]:
    """Restores the handler of this process, which the command replaces."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


def serve_error(*options: str) -> str:
    """Runs the command with the fake engine, which must fail, and returns what it prints."""
    done = click.testing.CliRunner().invoke(main, ["serve", "--engine=fake", *options])
    assert done.exit_code == 1
    return done.output


@pytest.mark.usefixtures("same_sigterm")
def test_it_says_which_address_it_cannot_use(tmp_path: Path) -> None:
    data_dir = f"--data-dir={tmp_path}"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert serve_error(f"--port={port}", data_dir) == (
            f"Error: port {port} of 127.0.0.1 is in use; choose another with --port, or 0 for a "
            "free one\n"
        )
    told = serve_error("--host=no-such-host.invalid", "--port=0", data_dir)
    assert re.fullmatch(
        r"Error: cannot listen on no-such-host\.invalid, port 0: .+; choose others by --host and "
        r"--port\n",
        told,
    )


@pytest.mark.usefixtures("same_sigterm")
def test_it_says_which_data_folder_it_cannot_use(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    folder = tmp_path / "file" / "data"
    assert serve_error("--port=0", f"--data-dir={folder}") == (
        f"Error: cannot use {folder}: Not a directory; choose another data folder by --data-dir\n"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sampler=vllm"], "needs either --vllm-python"),
        (["--vllm-url=http://x"], "the options --vllm-… need --sampler vllm"),
        (["--sampler=vllm", "--vllm-url=http://x", "--vllm-args=--x"], "--vllm-args are for a"),
    ],
)
@pytest.mark.usefixtures("same_sigterm")
def test_it_says_which_options_of_vllm_do_not_fit(options: list[str], message: str) -> None:
    done = click.testing.CliRunner().invoke(main, ["serve", *options])
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())


@pytest.mark.usefixtures("same_sigterm")
def test_vllm_needs_an_engine_with_weights(tmp_path: Path) -> None:
    told = serve_error(
        "--sampler=vllm", "--vllm-url=http://127.0.0.1:9", "--port=0", f"--data-dir={tmp_path}"
    )
    assert "use --engine torch with --sampler vllm" in told

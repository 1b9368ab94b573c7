"""`tinkex serve`, as a process of its own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest


@pytest.mark.parametrize("module", ["tinkex", "tinkex.cli"])
def test_the_command_runs_as_a_module(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout.splitlines()[0]) == (
        0,
        "Usage: tinkex [OPTIONS] COMMAND [ARGS]...",
    )


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
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
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

"""The bridge before a server of prepared answers: what a sample costs that passes through it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from benchmarks.http_load import Process
from benchmarks.prepared_answers import server
from benchmarks.workload import PROMPT_TOKENS, SAMPLED_TOKENS, SAMPLES
from scripts.official_sdk import ROOT

_COMMAND = "from tinkex.cli import main; main()"
_WARM_UP = 200  # samples that the client asks for before those that it measures
_ROUNDS = 3


@contextmanager
def bridge(upstream: str) -> Generator[Process]:
    """Yields a bridge to a server, in a process of its own."""
    with TemporaryDirectory() as data_dir:
        command = [sys.executable, "-c", _COMMAND, "bridge", "--port", "0"]
        command += ["--upstream", upstream, "--data-dir", data_dir]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            try:
                yield Process(process.pid, process.stdout.readline().split()[2])
            finally:
                process.terminate()


def ask_for_samples(url: str) -> None:
    """Asks for all samples at once, in a process of its own."""
    command = [sys.executable, ROOT / "benchmarks" / "client.py", "tinkex", "sample", url]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)


def main() -> None:
    table = Table(
        f"samples of {PROMPT_TOKENS} and {SAMPLED_TOKENS} tokens, {SAMPLES:,} at once", "CPU"
    )
    table.columns[1].justify = "right"
    with server() as upstream, bridge(f"{upstream}/protobuf") as process:
        ask_for_samples(process.url)
        for _ in range(_ROUNDS):
            before = process.cpu()
            ask_for_samples(process.url)
            cost = (process.cpu() - before) / (SAMPLES + _WARM_UP)
            table.add_row("of the bridge, a sample", f"{1e3 * cost:.2f} ms")
    Console().print(table)


if __name__ == "__main__":
    main()

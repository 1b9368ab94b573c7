"""The bridge before a server of prepared answers: the CPU that a sample costs which passes through
it, beside what it costs a program that asks the server by itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from statistics import median
from tempfile import TemporaryDirectory

from attrs import frozen
from rich.table import Table

from benchmarks.http_load import Process
from benchmarks.prepared_answers import server
from benchmarks.report import show
from benchmarks.workload import PROMPT_TOKENS, SAMPLED_TOKENS, SAMPLES, WARM_UP
from scripts.official_sdk import ROOT

_COMMAND = "from tinkex.cli import main; main()"
_ROUNDS = 5


@frozen
class Cost:
    """CPU seconds a sample."""

    client: float
    """The figure of a program whose client asks the server."""
    bridge: float
    """The figure of the bridge through which the same program asks."""


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


def ask_for_samples(url: str) -> float:
    """Asks for all samples at once, in a process of its own. Returns that client's CPU seconds a
    sample.
    """
    command = [sys.executable, ROOT / "benchmarks" / "client.py", "tinkex", "sample", url]
    command.append(str(SAMPLES))
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    return json.loads(ran.stdout)["cpu"]


def measure(upstream: str, process: Process) -> Cost:
    """Measures both, one right after the other."""
    client = ask_for_samples(upstream)
    before = process.cpu()
    ask_for_samples(process.url)
    return Cost(client, (process.cpu() - before) / (SAMPLES + WARM_UP))


def main() -> None:
    table = Table(
        f"CPU of {SAMPLES:,} samples at once, of {PROMPT_TOKENS} and {SAMPLED_TOKENS} tokens",
        "of the client alone",
        "of the bridge",
        "ratio",
    )
    for column in table.columns[1:]:
        column.justify = "right"
    with server() as url, bridge(f"{url}/protobuf") as process:
        ask_for_samples(process.url)
        costs = [measure(f"{url}/protobuf", process) for _ in range(_ROUNDS)]
    for number, cost in enumerate(costs, 1):
        table.add_row(f"round {number}", *_cells(cost))
    middle = Cost(median(cost.client for cost in costs), median(cost.bridge for cost in costs))
    table.add_row("median, a sample", *_cells(middle))
    show(table)


def _cells(cost: Cost) -> tuple[str, str, str]:
    ratio = cost.bridge / cost.client
    return f"{1e3 * cost.client:.2f} ms", f"{1e3 * cost.bridge:.2f} ms", f"{ratio:.2f}"


if __name__ == "__main__":
    main()

"""Compares tinkex with the official SDK on one server of prepared answers: `make bench`, or with
names of tasks as arguments.

CPU time is that of the client's process, all threads. A figure is the median of interleaved rounds,
each in a process of its own: what else the machine does moves all alike. Take a ratio from one run,
and no figure alone. A stall is the longest time that a client's work keeps an event loop from
running anything else. The floor is what no client can leave out (`floor.py`). The embedded server's
own benchmarks are modules of their own, run after these. A run of all writes its tables to
docs/performance.md.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import frozen
from rich.table import Table

from benchmarks import report
from benchmarks.client_process import OFFICIAL, Task, measure
from benchmarks.prepared_answers import server
from benchmarks.workload import (
    DATUMS,
    IN_FLIGHT,
    LARGE_DATUMS,
    LARGE_TOKENS,
    PROMPT_TOKENS,
    SAMPLE_SECONDS,
    SAMPLES,
    TRAINED_TOKENS,
)
from scripts.official_sdk import ROOT

_STEP = f"step, {DATUMS} x {TRAINED_TOKENS:,} tokens"
_MANY = 20_000
TASKS = (
    Task("import of ServiceClient", "import"),
    Task("import and first sampling client", "start"),
    Task(f"sample, {SAMPLES:,} at once, {PROMPT_TOKENS} tokens", "sample", floor=True),
    Task(f"sample, {SAMPLES:,} at once, JSON", "sample", "json", official=False, floor=True),
    Task(f"sample, {_MANY:,} at once", "sample", count=_MANY, rounds=1, floor=True),
    Task(f"sample, {SAMPLES:,} from 64 threads", "threads"),
    Task(f"sample, {SAMPLES:,} futures from one thread", "futures"),
    Task(
        f"sample of {SAMPLE_SECONDS:.0f} s, {IN_FLIGHT} in flight",
        "latency",
        "slow",
        rounds=1,
        floor=True,
    ),
    Task(f"{_STEP}, protobuf", "step", floor=True),
    Task(f"{_STEP}, JSON", "step", "json", official=False, floor=True),
    Task(f"step, {LARGE_DATUMS:,} x {LARGE_TOKENS:,} tokens", "large", "large", rounds=1),
)

OTHERS = ("growth", "start_up", "training_step", "engine_sampling", "http_load", "bridge")
"""Modules beside this one, each of which prints a table of its own; named like a task, each is run
alone.
"""


@frozen
class Figure:
    """The form in which a figure is shown."""

    name: str
    unit: str
    scale: float
    """The factor from seconds or bytes to the unit."""


FIGURES: Mapping[str, Figure] = {
    "cpu": Figure("CPU", "ms", 1e3),
    "stall": Figure("stall", "ms", 1e3),
    "p50": Figure("50th percentile", "ms", 1e3),
    "p99": Figure("99th percentile", "ms", 1e3),
    "memory": Figure("memory", "KiB", 1 / 1024),
}


def is_chosen(name: str) -> bool:
    return name in sys.argv[1:] or not sys.argv[1:]


def rows(task: Task, url: str) -> Iterator[Sequence[str]]:
    """Yields one row for each figure of a task."""
    compared = [
        "tinkex",
        *(["official"] if task.official else []),
        *(["floor"] if task.floor else []),
    ]
    rounds = [{sdk: measure(sdk, task, url) for sdk in compared} for _ in range(task.rounds)]
    for name in rounds[0]["tinkex"]:
        figure = FIGURES[name]
        median = {
            sdk: figure.scale * statistics.median(one[sdk][name] for one in rounds)
            for sdk in compared
            if name in rounds[0][sdk]
        }
        ours = median["tinkex"]
        official, floor = median.get("official"), median.get("floor")
        yield (
            f"{task.title}: {figure.name}, {figure.unit}",
            f"{ours:,.2f}",
            "-" if official is None else f"{official:,.2f}",
            "-" if official is None else f"{official / ours:.1f}",
            "-" if floor is None else f"{floor:,.2f}",
        )


def compare_clients(tasks: Sequence[Task]) -> None:
    columns = ("median", "tinkex", f"tinker {OFFICIAL}", "ratio", "floor")
    table = Table(*columns)
    for column in table.columns[1:]:
        column.justify = "right"
    with server() as url:
        for sdk in ("tinkex", "official"):
            measure(sdk, TASKS[0], url)  # compiles what is not, as pip does when it installs
        for task in tasks:
            for row in rows(task, url):
                table.add_row(*row)
    report.show(table)


def run() -> None:
    """Runs what the arguments name, and without any all."""
    if tasks := [task for task in TASKS if is_chosen(task.name)]:
        compare_clients(tasks)
    for module in filter(is_chosen, OTHERS):
        subprocess.run([sys.executable, "-m", f"benchmarks.{module}"], cwd=ROOT, check=True)


def main() -> None:
    began = time.monotonic()
    with TemporaryDirectory() as folder:
        tables = Path(folder, "tables.md")
        if sys.argv[1:]:
            run()
        else:
            report.collect_in(tables)
            run()
            report.write_page(tables.read_text(), (time.monotonic() - began) / 60)


if __name__ == "__main__":
    main()

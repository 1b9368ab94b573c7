"""Compares tinkex with the official SDK on one server of prepared answers: `make bench`, or with
names of tasks as arguments.

Figures are CPU time of the client's process, all threads, and the median of interleaved rounds,
each in a process of its own: what else the machine does moves both clients alike. Take a ratio from
one run, and no figure alone. A stall is the longest time that a client's work keeps an event loop
from running anything else. The embedded server's own benchmarks are modules of their own, run after
these.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from attrs import frozen
from rich.console import Console
from rich.table import Table

from benchmarks.prepared_answers import server
from benchmarks.workload import DATUMS, PROMPT_TOKENS, SAMPLES, TRAINED_TOKENS
from scripts.official_sdk import ROOT, python_with

_OFFICIAL = "0.38.0"
_ROUNDS = 3
# seconds for one process; a client that does not fit the server hangs rather than fails
_TIMEOUT = 120
_CLIENT = Path(__file__).with_name("client.py")


@frozen
class Task:
    title: str
    name: str
    encoding: str = "protobuf"
    official: bool = True
    """Whether the official SDK can do it: it writes no JSON batches since 0.25."""


@frozen
class Row:
    title: str
    tinkex: float
    official: float | None


_STEP = f"step, {DATUMS} x {TRAINED_TOKENS:,} tokens"
TASKS = (
    Task("import of ServiceClient", "import"),
    Task("import and first sampling client", "start"),
    Task(f"sample, {SAMPLES:,} at once, {PROMPT_TOKENS} tokens", "sample"),
    Task(f"{_STEP}, protobuf", "step"),
    Task(f"{_STEP}, JSON", "step", "json", official=False),
)

OF_THE_SERVER = ("start_up", "training_step", "engine_sampling", "http_load", "bridge")
"""Modules beside this one, each of which prints a table of its own; named like a task, each is run
alone.
"""


def is_chosen(name: str) -> bool:
    return name in sys.argv[1:] or not sys.argv[1:]


def measure(sdk: str, task: Task, url: str) -> dict[str, float]:
    python = sys.executable if sdk == "tinkex" else python_with(_OFFICIAL, alone=True)
    command = [python, _CLIENT, sdk, task.name, f"{url}/{task.encoding}"]
    compiled = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}  # as installed packages are
    return json.loads(
        subprocess.run(
            command, check=True, timeout=_TIMEOUT, stdout=subprocess.PIPE, env=compiled
        ).stdout
    )


def rows(task: Task, url: str) -> Iterator[Row]:
    """Yields one row for each figure of a task, in milliseconds."""
    sdks = ("tinkex", "official") if task.official else ("tinkex",)
    rounds = [{sdk: measure(sdk, task, url) for sdk in sdks} for _ in range(_ROUNDS)]
    for figure in rounds[0]["tinkex"]:
        median = {sdk: 1000 * statistics.median(one[sdk][figure] for one in rounds) for sdk in sdks}
        title = task.title if figure == "cpu" else f"{task.title}: {figure}"
        yield Row(title, median["tinkex"], median.get("official"))


def compare_clients(tasks: Sequence[Task]) -> None:
    table = Table("median, ms", "tinkex", f"tinker {_OFFICIAL}", "ratio")
    for column in table.columns[1:]:
        column.justify = "right"
    with server() as url:
        for sdk in ("tinkex", "official"):
            measure(sdk, TASKS[0], url)  # compiles what is not, as pip does when it installs
        for task in tasks:
            for row in rows(task, url):
                official = f"{row.official:.2f}" if row.official else "-"
                ratio = f"{row.official / row.tinkex:.1f}" if row.official else "-"
                table.add_row(row.title, f"{row.tinkex:.2f}", official, ratio)
    Console().print(table)


def main() -> None:
    if tasks := [task for task in TASKS if is_chosen(task.name)]:
        compare_clients(tasks)
    for module in filter(is_chosen, OF_THE_SERVER):
        subprocess.run([sys.executable, "-m", f"benchmarks.{module}"], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()

"""The embedded server with the engine that answers at once: what HTTP costs, and whether its memory
stays flat under load.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import frozen
from rich.table import Table

from benchmarks.report import show

_FOLDER = Path(__file__).parent
_SERVE = "from tinkex.cli import main; main()"
_CLIENTS = 256
_WARM_UP, _SAMPLES = 2_000, 40_000
_PAGE, _TICK = os.sysconf("SC_PAGE_SIZE"), 1 / os.sysconf("SC_CLK_TCK")


@frozen
class Process:
    """A server on a core of its own, and what the system says of it."""

    pid: int
    url: str

    def cpu(self) -> float:
        """Returns the CPU seconds of all threads of the process."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * _TICK

    def memory(self) -> float:
        """Megabytes, as far as they are in use."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE / 1e6


@contextmanager
def server() -> Generator[Process]:
    with TemporaryDirectory() as data_dir:
        command = [
            sys.executable,
            "-c",
            _SERVE,
            "serve",
            "--engine",
            "fake",
            "--port",
            "0",
            "--data-dir",
            data_dir,
        ]
        with subprocess.Popen(_on_core(0, command), stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            try:
                yield Process(process.pid, process.stdout.readline().split()[2])
            finally:
                process.terminate()


def load(url: str, samples: int) -> dict[str, float]:
    command = [sys.executable, _FOLDER / "load.py", url, str(samples), str(_CLIENTS)]
    return json.loads(
        subprocess.run(_on_core(1, command), check=True, stdout=subprocess.PIPE).stdout
    )


def _on_core(core: int, command: Sequence[str | Path]) -> Sequence[str | Path]:
    return ["taskset", "-c", str(core), *command] if (os.cpu_count() or 1) > 1 else command


def main() -> None:
    table = Table(f"{_SAMPLES:,} samples, {_CLIENTS} at once", "")
    table.columns[1].justify = "right"
    with server() as process:
        load(process.url, _WARM_UP)
        cpu, memory = process.cpu(), process.memory()
        figures = load(process.url, _SAMPLES)
        cpu = process.cpu() - cpu
        table.add_row("samples a second, and core of the server", f"{_SAMPLES / cpu:,.0f}")
        table.add_row("samples a second, by the clock", f"{_SAMPLES / figures['seconds']:,.0f}")
        table.add_row(
            "a sample's time, median and 99th percentile",
            f"{1e3 * figures['median']:.0f} and {1e3 * figures['p99']:.0f} ms",
        )
        table.add_row("CPU of the server a sample", f"{1e6 * cpu / _SAMPLES:.0f} µs")
        table.add_row(
            "CPU of the load's client a sample", f"{1e6 * figures['client_cpu'] / _SAMPLES:.0f} µs"
        )
        table.add_row(
            "memory of the server, before and after", f"{memory:.0f} and {process.memory():.0f} MB"
        )
    show(table)


if __name__ == "__main__":
    main()

"""The seconds from the command `tinkex serve` to its first answer, to an engine that is ready, and
to the first step of a model.

`python -m benchmarks start_up` prints the medians. What else the machine does adds to them, so take
them on a quiet one.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from tempfile import TemporaryDirectory

import httpx
from rich.table import Table

from benchmarks.report import show
from tinkex import AdamParams, Datum, ModelInput, ServiceClient

_ROUNDS = 3
_ENGINES = ("torch", "fake")
_MOMENTS = (
    "first answer of /api/v1/healthz",
    "engine ready",
    "first model made",
    "its first step done",
)
_MODEL = "tinkex/tiny"
_DATUM = Datum(ModelInput.from_ints([1, 2, 3]), {"target_tokens": [2, 3, 4]})
_COMPILED = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}  # as installed packages are


def start(engine: str) -> Sequence[float]:
    """Returns the time of each of the moments."""
    with TemporaryDirectory() as data_dir:
        command = [
            sys.executable,
            "-m",
            "tinkex",
            "serve",
            "--engine",
            engine,
            "--port",
            "0",
            "--data-dir",
            data_dir,
        ]
        began = time.perf_counter()
        with subprocess.Popen(command, env=_COMPILED, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            try:
                url = process.stdout.readline().split()[2]
                httpx.get(f"{url}/api/v1/healthz").raise_for_status()
                answered = time.perf_counter()
                made, trained = train(url)
                ready = next(
                    float(line.split()[2])
                    for line in process.stdout
                    if line.startswith("Ready after")
                )
            finally:
                process.terminate()
    return [answered - began, ready, made - began, trained - began]


def train(url: str) -> tuple[float, float]:
    """Trains at once, ready or not; returns the times of the first model and the first step."""
    with ServiceClient(base_url=url, api_key="tml-local") as service:
        trainer = service.create_lora_training_client(_MODEL, rank=8)
        made = time.perf_counter()
        losses = trainer.forward_backward([_DATUM], "cross_entropy")
        update = trainer.optim_step(AdamParams(learning_rate=1e-4))
        losses.result()
        update.result()
        return made, time.perf_counter()


def main() -> None:
    table = Table("seconds after `tinkex serve`", *_ENGINES)
    for column in table.columns[1:]:
        column.justify = "right"
    for engine in _ENGINES:
        start(engine)  # compiles what is not
    rounds = [{engine: start(engine) for engine in _ENGINES} for _ in range(_ROUNDS)]
    for index, moment in enumerate(_MOMENTS):
        table.add_row(
            moment,
            *(
                f"{statistics.median(one[engine][index] for one in rounds):.1f}"
                for engine in _ENGINES
            ),
        )
    show(table)


if __name__ == "__main__":
    main()

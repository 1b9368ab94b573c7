"""Runs tinker-cookbook, unchanged, with the official SDK and with the drop-in: its own tests, and
its training loops on the embedded server; `make test-dropin`, or with releases as arguments.

None of its tests may pass with the official SDK and fail with the drop-in, and its loops must train
alike. The table at the end says how each went.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from cookbook import CACHE, ROOT, VERSIONS, python_with, sources
from dropin_recipes import CLIENTS, MODEL, RECIPES, TEACHER, Outcome, difference, prepared, run
from dropin_tests import SUITES, Report, lost, report

import tinkex.local

DATA = CACHE / "data"
# a loop waits for the server most of its time, and some of the cookbook's tests sleep
AT_ONCE = (os.cpu_count() or 1) + 1
MAKERS = ("make_data.py", "hub_tokenizers.py", "special_tokens.txt", "models.txt")


@dataclass
class Row:
    """One line of the table; `faults` is empty where all is well."""

    program: str
    version: str
    client: str
    result: str
    seconds: float
    faults: list[str]


def main() -> int:
    versions = tuple(sys.argv[1:]) or VERSIONS
    begun = time.monotonic()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda make: make(), [make_data, *(maker(v) for v in versions)]))
    print(f"ready after {time.monotonic() - begun:.0f} s", flush=True)
    models = [f"{name}={DATA / name}" for name in (MODEL, TEACHER)]
    with (
        tempfile.TemporaryDirectory() as folder,
        tinkex.local.serve(models, device="cpu", dtype="float32") as server,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        start = prepared(server.base_url, Path(folder))
        tests = {
            (suite, version, client): pool.submit(report, version, suite, client, Path(folder))
            for suite, version, client in product(SUITES, versions, CLIENTS)
        }
        runs = {
            (recipe.name, version, client): pool.submit(
                run, recipe, version, client, start, Path(folder)
            )
            for recipe, version, client in product(RECIPES, versions, CLIENTS)
            if version in recipe.versions
        }
        rows = [row for version in versions for row in test_rows(tests, version, Path(folder))]
        rows += [row for version in versions for row in recipe_rows(runs, version)]
    print_table(rows)
    faults = [f"{r.program} {r.version} {r.client}: {fault}" for r in rows for fault in r.faults]
    print("\n".join(faults))
    cpu = sum(os.times()[:4])
    print(f"{time.monotonic() - begun:.0f} s, {cpu:.0f} s of CPU; {len(faults)} faults")
    return 1 if faults else 0


def maker(version: str) -> Callable[[], None]:
    """Returns what makes the venv and the sources of a release."""

    def make() -> None:
        python_with(version)
        sources(version)

    return make


def make_data() -> None:
    """Makes the models, tokenizers and data sets, unless they are there already."""
    scripts = [ROOT / "tests" / "dropin" / name for name in MAKERS]
    made_by = hashlib.sha256(b"".join(script.read_bytes() for script in scripts)).hexdigest()
    ready = DATA / "made_by"
    if not ready.exists() or ready.read_text() != made_by:
        shutil.rmtree(DATA, ignore_errors=True)
        subprocess.run([sys.executable, scripts[0], DATA], check=True, stderr=subprocess.DEVNULL)
        ready.write_text(made_by)


# ---- rows ----


def test_rows(
    tests: dict[tuple[str, str, str], Future[Report]], version: str, folder: Path
) -> list[Row]:
    rows: list[Row] = []
    for suite in SUITES:
        reports = {client: tests[suite, version, client].result() for client in CLIENTS}
        official, drop_in = (reports[client] for client in CLIENTS)
        faults = {"official": [], "drop-in": lost(official, drop_in, version, suite, folder)}
        for client, names in (("official", "official"), ("drop-in", "tinkex")):
            if reports[client].tinker_is != names:
                faults[client].append(f"`tinker` was {reports[client].tinker_is}")
            if not reports[client].passed():
                faults[client].append("no test passed")
        rows += [
            Row(suite, version, c, r.counts(), r.seconds, faults[c]) for c, r in reports.items()
        ]
    return rows


def recipe_rows(runs: dict[tuple[str, str, str], Future[Outcome]], version: str) -> list[Row]:
    rows: list[Row] = []
    for recipe in RECIPES:
        if version not in recipe.versions:
            continue
        official, drop_in = (runs[recipe.name, version, client].result() for client in CLIENTS)
        if not official.faults and not drop_in.faults and (wrong := difference(official, drop_in)):
            drop_in.faults.append(wrong)
        rows += [
            Row(recipe.name, version, o.client, o.summary, o.seconds, o.faults)
            for o in (official, drop_in)
        ]
    return rows


def print_table(rows: list[Row]) -> None:
    head = ("program", "cookbook", "client", "", "result", "s")
    lines = [head] + [
        (
            row.program,
            row.version,
            row.client,
            "FAILED" if row.faults else "passed",
            row.result,
            f"{row.seconds:.0f}",
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = zip(line, widths, strict=True)
        print("  ".join(cell.ljust(width) for cell, width in cells).rstrip())


if __name__ == "__main__":
    sys.exit(main())

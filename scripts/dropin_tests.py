"""The cookbook's own tests with the official SDK and with the drop-in, for scripts/test_dropin.py.

They want the hub for tokenizers; tests/dropin/hub_tokenizers.py has others in their place.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cookbook import CACHE, ROOT, python_with, sources
from official_sdk import COMPILED, ended_well

PLUGINS = ("reporter", "pytest_asyncio.plugin", "pytest_timeout")
# apart from each other: what collects both skips the first for want of a key
SUITES = {"unit": "tinker_cookbook", "downstream_compat": "tests/downstream_compat"}
NEVER = ("not run", "")
AGAIN = 3  # times that a differing test is tried again, the machine being quieter then
TIMEOUT = 2400  # seconds, of which a quiet machine needs one in ten


@dataclass
class Report:
    """The outcome of each test of a run, with the error of those that failed."""

    seconds: float
    tinker_is: str
    tests: dict[str, tuple[str, str]]

    def passed(self) -> set[str]:
        return {test for test, (outcome, _) in self.tests.items() if outcome == "passed"}

    def counts(self) -> str:
        count = Counter(outcome for outcome, _ in self.tests.values())
        return f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped"


def report(version: str, suite: str, client: str, folder: Path, only: Sequence[str] = ()) -> Report:
    """Runs a suite, or only some of its tests, with one of the clients.

    Raises:
        RuntimeError: pytest broke off.
    """
    out = folder / f"{suite}-{version}-{client}{len(only) or ''}.json"
    begun = time.monotonic()
    ran = subprocess.run(
        [
            *(python_with(version), "-m", "pytest", *(only or (SUITES[suite],))),
            *("-m", "not integration", "--continue-on-collection-errors", "--quiet", "--tb=line"),
            *("-o", f"cache_dir={folder}/pytest"),
            *(word for plugin in PLUGINS for word in ("-p", plugin)),
        ],
        cwd=sources(version),
        env=_environment(client, out),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    # 1: tests failed, or could not be imported
    if ran.returncode != 1 and not ended_well(client, ran.returncode):
        raise RuntimeError(
            f"pytest ended with status {ran.returncode}: {ran.stdout[-3000:]}{ran.stderr[-3000:]}"
        )
    read = json.loads(out.read_text())
    tests = {test: (outcome, why) for test, (outcome, why) in read["tests"].items()}
    return Report(time.monotonic() - begun, read["tinker_is"], tests)


def lost(official: Report, drop_in: Report, version: str, suite: str, folder: Path) -> list[str]:
    """Returns the tests that pass with the official SDK alone, or fail with both but by different
    errors, each with why, also when tried again: some of them measure times.
    """
    differing = [test for test in official.tests if not _alike(official, drop_in, test)]
    for _ in range(AGAIN):
        if not differing:
            break
        again = report(version, suite, "drop-in", folder, differing)
        differing = [test for test in differing if not _alike(official, again, test)]
    return [
        f"{test}: {' '.join(drop_in.tests.get(test, NEVER))} (official: "
        f"{' '.join(official.tests[test])})"
        for test in differing
    ]


def _alike(official: Report, drop_in: Report, test: str) -> bool:
    """Returns whether a test fares as well with the drop-in, or fails by the same error."""
    (outcome, why), (ours, our_why) = official.tests[test], drop_in.tests.get(test, NEVER)
    if outcome == "passed":
        return ours == "passed"
    return ours != "failed" or outcome != "failed" or _masked(why) == _masked(our_why)


def _masked(why: str) -> str:
    """Returns an error without its numbers: addresses, ports, names of temporary folders."""
    return re.sub(r"0x[0-9a-f]+|\d+", "", why)


def _environment(client: str, out: Path) -> dict[str, str]:
    paths = [ROOT / "tests" / "dropin"]
    if client == "drop-in":
        paths += [ROOT, ROOT / "generated"]
    environment = {
        **os.environ,
        **COMPILED,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # those of our packages
        "DROPIN": "1" if client == "drop-in" else "",
        "DROPIN_REPORT": str(out),
        "HF_HOME": str(CACHE / "data" / "hub"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("TINKER_API_KEY", None)
    return environment

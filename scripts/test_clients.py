"""Runs a whole job with the official SDK, unchanged, on the embedded server: `make test-clients`,
or with versions as arguments.

With the newest of them tinkex works in the same process, too, whichever is imported first, the
idioms of programs give the same by both, also in the same words by the drop-in, and both are
compared name by name.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from official_sdk import ROOT, python_with

import tinkex.local
from tinkex.dropin import put_first

JOB = ROOT / "tests" / "official" / "official_job.py"
BOTH = ROOT / "tests" / "official" / "both_packages.py"
IDIOMS = ROOT / "tests" / "official" / "idioms.py"
DROP_IN = ROOT / "tests" / "official" / "dropin_idioms.py"
NAMES = ROOT / "tests" / "official" / "dropin_names.py"
BESIDE = ROOT / "tests" / "official" / "side_by_side.py"
VERSIONS = ("0.12.0", "0.18.0", "0.22.0", "0.25.0", "0.30.0", "0.38.0")
AT_ONCE = 3  # installing waits for the network, and a job for the server
# seconds, of which a quiet machine needs one in ten; a client that does not fit a server hangs
# rather than fails
TIMEOUT = 600


def main() -> int:
    versions = sys.argv[1:] or VERSIONS
    with ThreadPoolExecutor(AT_ONCE) as pool:
        passed = list(pool.map(passes, versions))
    return (
        0
        if all(passed)
        and (
            VERSIONS[-1] not in versions
            or all(
                [
                    both_work_in_one_process(),
                    the_same_idioms_work(),
                    the_drop_in_does_the_same(),
                    the_drop_in_has_the_names(),
                    what_differs_is_stated(),
                ]
            )
        )
        else 1
    )


def passes(version: str) -> bool:
    """Each has a server of its own: an old client cannot read what newer ones save."""
    begin = time.monotonic()
    code, report = _run(version, JOB)
    print(
        f"{report}tinker {version}: {time.monotonic() - begin:.0f} s, "
        f"{'failed' if code else 'passed'}",
        flush=True,
    )
    return code == 0


def both_work_in_one_process() -> bool:
    """Returns whether tinkex and the newest release do, in either order of import."""
    orders = (("tinker", "tinkex"), ("tinkex", "tinker"))
    results = [_run(VERSIONS[-1], BOTH, *order) for order in orders]
    print("".join(report for _, report in results), flush=True)
    return all(code == 0 for code, _ in results)


def the_same_idioms_work() -> bool:
    """Returns whether what programs do with the newest release gives the same by tinkex."""
    return _said(_run(VERSIONS[-1], IDIOMS))


def the_drop_in_does_the_same() -> bool:
    """Returns whether programs that import `tinker` do the same by the drop-in, with the official
    SDK installed beside it.
    """
    runs = [_run(VERSIONS[-1], DROP_IN, drop_in=drop_in) for drop_in in (False, True)]
    if any(code for code, _ in runs):
        print("".join(report for _, report in runs), flush=True)
        return False
    there, here = (json.loads(report.splitlines()[-1]) for _, report in runs)
    assert here["origin"] == "tinkex.dropin" != there["origin"], (there["origin"], here["origin"])
    wrong = list(_differences(there["results"], here["results"]))
    print(
        *wrong,
        f"{len(there['results'])} idioms by the official SDK and by the drop-in, "
        f"{len(wrong)} differences",
        sep="\n",
        flush=True,
    )
    return not wrong


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    for name, result in there.items():
        if result != here[name] or str(result).startswith("raised"):
            yield f"{name}: official {result!r}, drop-in {here[name]!r}"


def the_drop_in_has_the_names() -> bool:
    """Returns whether each public name of the newest release is in the drop-in, or its absence is
    explained.
    """
    return _said(_run(VERSIONS[-1], NAMES))


def what_differs_is_stated() -> bool:
    """Returns whether docs/parity.md says what a program could meet that the newest release does
    otherwise.
    """
    return _said(_run(VERSIONS[-1], BESIDE))


def _said(outcome: tuple[int, str]) -> bool:
    code, report = outcome
    print(report, flush=True)
    return code == 0


def _run(version: str, script: Path, *arguments: str, drop_in: bool = False) -> tuple[int, str]:
    """Runs `script URL ARGUMENTS` beside that release, or with the drop-in in its place. Returns
    its exit code, and what it said.
    """
    command = [python_with(version), script]
    ours = os.pathsep.join((str(ROOT), str(ROOT / "generated")))
    environment = os.environ | {"PYTHONPATH": ours}
    if drop_in:
        put_first(environment)
    with tinkex.local.serve() as server:
        try:
            job = subprocess.run(
                [*command, server.base_url, *arguments],
                timeout=TIMEOUT,
                capture_output=True,
                text=True,
                env=environment,
            )
        except subprocess.TimeoutExpired as error:
            return 1, f"no end after {TIMEOUT} s\n{error.stderr}"
    if job.returncode == 0:
        return 0, job.stdout
    return job.returncode, f"{job.stdout}{job.stderr}exit code {job.returncode}\n"


if __name__ == "__main__":
    sys.exit(main())

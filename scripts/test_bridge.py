"""Runs a whole job with the official SDK, unchanged, through the bridge, on the embedded server in
each of its profiles: `make test-bridge`, or with releases and names of profiles as arguments.

The newest and the oldest release run on every profile. Those between them differ less, so each runs
on a third of the profiles; `--all` runs all on all.

A part of the job whose call the imitated server lacks is left out; the table names such parts. The
bridge refuses them, with the words of `UnsupportedByServer`: tests/client/bridge. All commands run
on every profile, in the process of the job; on `tinkex` one also runs as a program of its own.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from attrs import frozen
from official_jobs import OfficialJobs
from rich.console import Console
from rich.table import Table
from test_clients import VERSIONS

import tinkex.local
from tinkex.bridge.routing import Routing, Target
from tinkex.bridge.server import serve_bridge
from tinkex.dialects.table import DIALECTS
from tinkex_server.engine.interface import Engine
from tinkex_server.engine.torch.engine import TorchEngine
from tinkex_server.profiles import PROFILES

AT_ONCE = 4
TIMEOUT = 300  # seconds, of which a quiet machine needs few
HOLD = 0.5  # seconds for which the imitations hold a poll

_EVERY = 3
"""A release between the oldest and the newest runs on each profile of so many."""
_OPERATIONS = (
    *("publish_checkpoint", "set_checkpoint_ttl", "copy_weights", "delete_checkpoint"),
    *("get_checkpoint_archive_url", "save_weights_external", "sample"),
)
"""The operations of the job that some servers lack, which are names of its parts, too."""

_OTHERWISE: Mapping[str, frozenset[str]] = {
    # no loss:sum among the metrics of a ratio loss
    **dict.fromkeys(("skyrl-0.3", "skyrl", "skyrl-0.4"), frozenset({"ratio_losses"})),
    # its paths name no kind, by which its routes of checkpoints are called, and it lists models by
    # other names
    "hatchery": frozenset(
        {
            *("ratio_losses", "publish_checkpoint", "set_checkpoint_ttl"),
            *("delete_checkpoint", "get_checkpoint_archive_url", "model_list"),
        }
    ),
    # it answers with the path of an archive on its own disk
    "tuft": frozenset({"get_checkpoint_archive_url"}),
    # their forward computes cross_entropy alone
    **dict.fromkeys(("open-rl-old", "open-rl"), frozenset({"ratio_losses"})),
    # its importance_sampling needs an even number of datums
    "twinkle": frozenset({"ratio_losses"}),
    # it samples at one temperature
    "arctic": frozenset({"greedy"}),
    # what its release of that day lacks is found out by the first call
    "hosted-0.25": frozenset({"copy_weights", "save_weights_external"}),
}
"""The parts of the job that a server does otherwise than the hosted service."""


@frozen
class Case:
    """One release of the official SDK, and one kind of server."""

    version: str
    profile: str

    @property
    def without(self) -> Sequence[str]:
        """The parts of the job that the server lacks."""
        dialect = DIALECTS[self.profile]
        lacking = {name for name in _OPERATIONS if dialect.lacks(name)}
        if dialect.lacks("list_checkpoints"):
            lacking.add("sizes")
        if dialect.lacks("get_external_weights_urls"):
            lacking.add("save_weights_external")
        if dialect.lacks("unpublish_checkpoint"):
            lacking.add("publish_checkpoint")
        if not dialect.sampling.prompt_logprobs:
            lacking.add("prompt_logprobs")
        if not dialect.sampling.saved_names:
            lacking.add("saved_samplers")
        if dialect.resume == "never":
            lacking.add("resume")
        return sorted(lacking | _OTHERWISE.get(self.profile, frozenset()))

    @property
    def left_out(self) -> Sequence[str]:
        """The parts of the job that are not run."""
        return self.without if self.profile == "tinkex" else [*self.without, "program"]


@frozen
class Outcome:
    case: Case
    report: str
    passed: bool
    seconds: float


def main() -> int:
    names = [name for name in sys.argv[1:] if name != "--all"]
    whole = "--all" in sys.argv or bool(names)
    versions = [name for name in names if name not in PROFILES] or VERSIONS
    profiles = [name for name in names if name in PROFILES] or list(PROFILES)
    engine = TorchEngine(["tinkex/tiny"])
    # the newest release first: what it finds out is the most telling
    cases = [
        Case(version, profile)
        for number, version in reversed(list(enumerate(versions)))
        for place, profile in enumerate(profiles)
        if whole or number in (0, len(versions) - 1) or place % _EVERY == number % _EVERY
    ]
    begin = time.monotonic()
    with ExitStack() as stack, ThreadPoolExecutor(AT_ONCE) as pool:
        started = pool.map(OfficialJobs, versions)
        jobs = {
            version: stack.enter_context(of_version)
            for version, of_version in zip(versions, started, strict=True)
        }
        print(f"ready after {time.monotonic() - begin:.0f} s", flush=True)
        outcomes = list(pool.map(lambda case: run(case, engine, jobs[case.version]), cases))
    print_table(outcomes, versions, profiles)
    print(f"{time.monotonic() - begin:.0f} s, {sum(os.times()[:4]):.0f} s of CPU")
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def run(case: Case, engine: Engine, jobs: OfficialJobs) -> Outcome:
    """Runs the job of one case, on a server and a bridge of its own."""
    begin = time.monotonic()
    dialect = None if case.profile == "tinkex" else case.profile
    with (
        tinkex.local.serve(engine=engine, profile=case.profile, hold=HOLD) as server,
        serve_bridge(Routing(Target(server.base_url, dialect))) as bridge,
    ):
        passed, report = jobs.run(bridge.base_url, case.left_out, TIMEOUT)
    seconds = time.monotonic() - begin
    said = "passed" if passed else f"failed\n{report}"
    print(f"tinker {case.version} on {case.profile}: {seconds:.0f} s, {said}", flush=True)
    return Outcome(case, report, passed, seconds)


def print_table(
    outcomes: Sequence[Outcome], versions: Sequence[str], profiles: Sequence[str]
) -> None:
    """Prints the seconds of each job, or that it failed, and what was left out."""
    table = Table("server", *(f"tinker {version}" for version in versions), "without")
    found = {(outcome.case.profile, outcome.case.version): outcome for outcome in outcomes}
    for profile in profiles:
        cells = [_cell(found.get((profile, version))) for version in versions]
        table.add_row(profile, *cells, ", ".join(Case(versions[0], profile).without))
    Console(width=160).print(table)


def _cell(outcome: Outcome | None) -> str:
    if outcome is None:
        return "-"
    return f"{outcome.seconds:.0f} s" if outcome.passed else "failed"


if __name__ == "__main__":
    sys.exit(main())

"""Runs one whole job on a server, in both facades, and says how each step went: `python
scripts/try_server.py URL`.

One line a step: ok; what was otherwise than asked; unsupported, with what the client said; skipped,
for want of an earlier step; or FAILED, which makes the exit status 1. The key is `TINKER_API_KEY`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.facades import FACADES
from tests.support.whole_job import TWO_CHUNKS, Job, outcomes
from tinkex import Config, PollSettings

LONGEST_WAIT = 600.0  # seconds, for a server that compiles at its first step


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", help="the server, as http://host:port")
    parser.add_argument(
        "--model", help="the base model; by default the first one that the server names"
    )
    parser.add_argument("--dialect", help="what the server speaks; by default it is found out")
    parser.add_argument(
        "--facade", choices=list(FACADES), help="one of them; by default both, in turn"
    )
    given = parser.parse_args()
    config = Config(
        base_url=given.url,
        api_key=os.environ.get("TINKER_API_KEY", "tml-try"),
        dialect=given.dialect,
        chunk_limits=TWO_CHUNKS,
        poll=PollSettings(max_wait=LONGEST_WAIT),
    )
    facades = [given.facade] if given.facade else list(FACADES)
    failures = sum(run(facade, config, given.model) for facade in facades)
    return 1 if failures else 0


def run(facade: str, config: Config, model: str | None) -> int:
    """Returns the number of steps that failed."""
    service = FACADES[facade](config=config)
    job = Job(service, model)
    failures = 0
    for outcome in outcomes(job):
        if outcome.step == "create_model":
            print(f"{facade}: {config.base_url} speaks {service.server.name}")
        print(
            f"  {outcome.step:<38} {outcome.kind:<11} {outcome.seconds:6.2f} s  "
            f"{outcome.detail}".rstrip(),
            flush=True,
        )
        failures += outcome.kind == "FAILED"
    print(f"  losses {', '.join(f'{loss:.4f}' for loss in job.losses)}")
    return failures


if __name__ == "__main__":
    sys.exit(main())

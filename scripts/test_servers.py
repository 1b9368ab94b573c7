"""Tries real servers, and writes what it saw into docs/servers_seen.json: `make test-servers`, or
with dialects as arguments.

Takes about ten minutes a server on two cores, and some GB of disk for the venvs; not a part of the
tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attrs import evolve
from random_qwen3 import make_random_qwen3
from real_servers import CACHE, KEY, ROOT, SERVERS, RealServer, running
from server_effects import CHECKS, Place, seen
from servers_seen import DATA

from tinkex import Config, Dialect, PollSettings
from tinkex.dialects.table import DIALECTS

JOB_WITHIN = 1500  # seconds
RESULT_WITHIN = 300.0  # seconds, of which compiling takes most


def main() -> int:
    asked = sys.argv[1:] or [server.dialect for server in SERVERS]
    model = CACHE / "model"
    if not (model / "tokenizer.json").exists():
        # its logits are far apart, so that greedy is decided
        make_random_qwen3(model, seed=0, head_dim=16, initializer_range=0.1)
    records: dict[str, Any] = json.loads(DATA.read_text())
    for server in SERVERS:
        if server.dialect in asked:
            records["servers"][server.dialect] = tried(server, model)
            DATA.write_text(json.dumps(records, indent=2, ensure_ascii=False) + "\n")
    return 0


def tried(server: RealServer, model: Path) -> dict[str, Any]:
    """Returns what was seen of a server: release, day, how its job went, and each effect."""
    record: dict[str, Any] = {
        "package": server.package,
        "release": server.release,
        "date": datetime.now(UTC).date().isoformat(),
        "started_by": server.started_by,
    }
    try:
        with running(server, model) as url:
            poll = PollSettings(max_wait=RESULT_WITHIN)
            config = Config(base_url=url, api_key=KEY, dialect=unguarded(server.dialect), poll=poll)
            place = Place(config, str(model), model)
            record["job"] = job(url, model)
            for name, check in CHECKS.items():
                saw = seen(check, place).replace(str(model), "the model")
                record.setdefault("effects", {})[name] = said(server, name, saw)
    except (OSError, subprocess.SubprocessError) as error:
        record["read"] = f"could not be brought up: {error}"
    return record


def unguarded(name: str) -> Dialect:
    """The dialect without the rules that keep its server's faults from the user, so that each run
    sees those again.
    """
    return evolve(DIALECTS[name], splits_batches=True, saves_once=False)


def job(url: str, model: Path) -> dict[str, list[str]]:
    """Runs scripts/try_server.py, and returns the steps by how they went."""
    begun = time.monotonic()
    command = [
        sys.executable,
        ROOT / "scripts" / "try_server.py",
        url,
        "--model",
        model,
        "--facade",
        "blocking",
    ]
    ran = subprocess.run(
        command,
        env={**os.environ, "TINKER_API_KEY": KEY},
        timeout=JOB_WITHIN,
        capture_output=True,
        text=True,
    )
    print(ran.stdout, f"{time.monotonic() - begun:.0f} s", flush=True)
    steps: dict[str, list[str]] = {}
    for line in ran.stdout.replace(str(model), "the model").splitlines():
        match line.split(maxsplit=4):
            case [
                step,
                ("ok" | "differs" | "unsupported" | "skipped" | "FAILED") as kind,
                *rest,
            ] if len(rest) > 1:
                detail = (
                    rest[2].removeprefix("s ").strip() if len(rest) > 2 and rest[2] != "s" else ""
                )
                steps.setdefault(kind, []).append(f"{step}: {detail}" if detail else step)
    return steps


def said(server: RealServer, name: str, saw: str) -> str:
    print(f"{server.dialect}: {name}: {saw}", flush=True)
    return saw


if __name__ == "__main__":
    sys.exit(main())

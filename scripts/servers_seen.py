"""The part of docs/servers.md that says what real servers did: made of docs/servers_seen.json,
which `make test-servers` writes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parents[1] / "docs" / "servers_seen.json"
_TEXT = (
    "What `make test-servers` saw when it ran these releases on a tiny random model: no claim of "
    "theirs, but the numbers of\n"
    "their models. Of servers that are not here nothing was seen by it.\n\n"
)


def seen() -> str:
    """Returns the section, in Markdown."""
    records: dict[str, Any] = json.loads(DATA.read_text())
    text = (
        "## Seen on real servers\n\n"
        + _TEXT
        + "| server | release | day | what | seen |\n| --- | --- | --- | --- | --- |\n"
    )
    for dialect, record in records["servers"].items():
        head = f"| `{dialect}` | {record['package']} {record['release']} | {record['date']} |"
        for what, saw in _lines(record):
            text += f"{head} {what} | {saw.replace('|', chr(92) + '|')} |\n"
    return (
        text
        + "\nNot run: "
        + "; ".join(f"`{name}`, {why}" for name, why in records["not_run"].items())
        + ".\n"
    )


def _lines(record: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [("started", record["read"] if "read" in record else record["started_by"])]
    for kind, steps in record.get("job", {}).items():
        lines.append((f"job: {kind}", f"{len(steps)} steps" if kind == "ok" else "; ".join(steps)))
    return lines + list(record.get("effects", {}).items())

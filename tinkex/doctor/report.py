"""The findings as JSON values, and as a Markdown block for a bug report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinkex.doctor.examination import PROBES
from tinkex.doctor.finding import Finding, verdict

_MARKS = {"ok": "ok", "warn": "**warn**", "fail": "**fail**", "skipped": "–"}


def in_order(findings: Sequence[Finding]) -> list[Finding]:
    """Returns the findings in the order of the probes' names in `PROBES`."""
    return sorted(findings, key=lambda finding: PROBES.index(finding.probe))


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Returns verdict and findings as JSON values."""
    said = verdict(in_order(findings))
    return {
        "verdict": said.text,
        "outcome": said.outcome,
        "findings": [finding.as_dict() for finding in in_order(findings)],
    }


def as_markdown(findings: Sequence[Finding]) -> str:
    """Returns a table for a bug report. It contains no key, and no password."""
    rows = [
        f"| {finding.probe} | {_MARKS[finding.level]} | {_cell(finding)} |"
        for finding in in_order(findings)
    ]
    return "\n".join(
        [
            "### tinkex doctor",
            "",
            "| probe | | finding |",
            "| --- | --- | --- |",
            *rows,
            "",
            f"Verdict: {_escaped(verdict(in_order(findings)).text)}",
        ]
    )


def _cell(finding: Finding) -> str:
    return _escaped(" – ".join(part for part in (finding.text, finding.cause) if part))


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")

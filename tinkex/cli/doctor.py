"""The command `tinkex doctor`, which says why something does not work, and what to do."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import TYPE_CHECKING

import click

from tinkex.cli.command import command as data_command
from tinkex.cli.exit_codes import ExitCode
from tinkex.cli.output import Output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tinkex.doctor.finding import Finding, Outcome

_MARKS = {"ok": "✓", "warn": "!", "fail": "✗", "skipped": "–"}
_COLORS = {"ok": "green", "warn": "yellow", "fail": "red", "skipped": "dim"}
_INDENT = 11  # columns before the text of a finding


@data_command(
    "doctor",
    help=(
        "Examine the settings, the network and the server. Ten probes run side by side, at most "
        "10 s; each problem is shown with its cause and the command that corrects it."
    ),
    fields=("verdict", "outcome", "findings"),
    examples=[
        "tinkex doctor",
        "tinkex doctor --base-url http://127.0.0.1:8765 --probe",
        "tinkex doctor --report > report.md",
    ],
    id_field="verdict",
)
@click.option(
    "--base-url",
    metavar="URL",
    help="Server to examine.  [default: TINKER_BASE_URL, else the hosted service]",
)
@click.option("--profile", metavar="NAME", help="Profile of the settings file to use.")
@click.option(
    "--sample/--no-sample",
    default=None,
    help="Whether to draw 4 tokens.  [default: yes; on the hosted service it asks first]",
)
@click.option(
    "--probe",
    is_flag=True,
    help=(
        "Train small models on the server, to measure what it does with a repeated request. This "
        "may take two minutes."
    ),
)
@click.option("--report", is_flag=True, help="Write a Markdown table for a bug report; no keys.")
def command(
    output: Output,
    base_url: str | None,
    profile: str | None,
    sample: bool | None,
    probe: bool,
    report: bool,
) -> None:
    """Examines, and exits with 0, with 7 for findings, or with 5 if no server answers."""
    # Before the client is imported, so that the first sign of life comes at once.
    output.status("examining the settings, the network and the server …")
    from tinkex.doctor.examination import Options
    from tinkex.doctor.finding import verdict
    from tinkex.doctor.report import as_json, as_markdown, in_order

    # What the log would say, the findings say.
    logging.getLogger("tinkex").addHandler(logging.NullHandler())
    options = Options(
        base_url=base_url,
        profile=profile,
        sample=_may_sample(output, base_url, profile) if sample is None else sample,
        measure_repeats=probe,
    )
    found = asyncio.run(_examine(output, options, shown=not report))
    said = verdict(in_order(found))
    if report:
        output.text(as_markdown(found))
    elif output.mode in ("json", "quiet"):
        output.record(as_json(found))
    else:
        output.text(f"\n{said.text}" if output.mode == "human" else f"verdict\t\t{said.text}")
    sys.exit(_exit_code(said.outcome))


async def _examine(output: Output, options: object, *, shown: bool) -> Sequence[Finding]:
    from tinkex.doctor.examination import Options, examine

    assert isinstance(options, Options)
    found: list[Finding] = []
    async for finding in examine(options):
        found.append(finding)
        if shown:
            _show(output, finding)
    return found


def _may_sample(output: Output, base_url: str | None, profile: str | None) -> bool:
    """Returns whether a sample may be drawn: at once from one's own server, and from the hosted
    service only if the user agrees.
    """
    from tinkex.doctor.settings import read_settings
    from tinkex.errors import ConfigError

    try:
        settings = read_settings(base_url, profile)
    except ConfigError:
        return False  # the settings have a finding of their own
    if settings.missing_key or not settings.config.is_hosted:
        return True
    if not output.can_ask:
        return False
    return click.confirm("A sample of 4 tokens costs money there. Draw it?", err=True)


def _show(output: Output, finding: Finding) -> None:
    """Writes a finding: aligned for a person, else a line with tabs."""
    lines = [line for line in (finding.cause, _fix(finding)) if line]
    if output.mode == "plain":
        fields = (finding.probe, finding.level, finding.text, finding.cause, finding.command)
        output.text("\t".join(" ".join((field or "").split()) for field in fields).rstrip("\t"))
    elif output.mode == "human":
        from rich.text import Text

        mark = _MARKS[finding.level] if output.can_write("✓✗–") else f"[{finding.level}]"
        head = Text.assemble(
            (mark, _COLORS[finding.level]), " ", (f"{finding.probe:{_INDENT - 2}}", "bold")
        )
        output.console.print(head, finding.text, sep="")
        for line in lines:
            output.console.print(" " * _INDENT + line)


def _fix(finding: Finding) -> str | None:
    return f"→ {finding.command}" if finding.command else None


def _exit_code(outcome: Outcome) -> ExitCode:
    codes: dict[Outcome, ExitCode] = {
        "well": ExitCode.OK,
        "findings": ExitCode.FINDINGS,
        "unreachable": ExitCode.UNREACHABLE,
    }
    return codes[outcome]

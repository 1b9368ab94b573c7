"""`Finding`: the outcome of one probe; `Verdict`: the outcome of all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from attrs import asdict, frozen

Level = Literal["ok", "warn", "fail", "skipped"]
Outcome = Literal["well", "findings", "unreachable"]
"""The verdict in one word."""


@frozen(kw_only=True)
class Finding:
    """The outcome of one probe."""

    probe: str
    level: Level
    text: str
    """The observation, in one line."""
    cause: str | None = None
    """Why something is wrong, or why the probe was skipped."""
    command: str | None = None
    """A shell command that corrects what is wrong, or shows more of it."""
    unreachable: bool = False
    """Whether the finding is that no server answers."""
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Returns the finding as JSON values."""
        return {**asdict(self), "seconds": round(self.seconds, 3)}


@frozen
class Verdict:
    """The outcome of all probes, in a sentence and in one word."""

    text: str
    outcome: Outcome


def skipped(probe: str, text: str, **more: Any) -> Finding:
    """Returns the finding of a probe that was not made."""
    return Finding(probe=probe, level="skipped", text=text, **more)


def verdict(findings: Iterable[Finding]) -> Verdict:
    """Returns the verdict on the findings of all probes."""
    found = list(findings)
    if wrong := [finding for finding in found if finding.unreachable]:
        return Verdict(f"the server cannot be reached: {wrong[0].text}", "unreachable")
    failed, doubtful = _names(found, "fail"), _names(found, "warn")
    if failed or doubtful:
        parts = [
            f"{len(names)} {word}: {', '.join(names)}"
            for names, word in ((failed, "failed"), (doubtful, _count("warning", doubtful)))
            if names
        ]
        return Verdict("; ".join(parts), "findings")
    left_out = ", ".join(_names(found, "skipped"))
    return Verdict(f"all is well (not tried: {left_out})" if left_out else "all is well", "well")


def _names(findings: Sequence[Finding], level: Level) -> list[str]:
    return [finding.probe for finding in findings if finding.level == level]


def _count(word: str, names: Sequence[str]) -> str:
    return word if len(names) == 1 else f"{word}s"

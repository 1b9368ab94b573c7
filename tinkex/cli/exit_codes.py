"""The exit codes of the command `tinkex`: one table for the code, the help and the docs."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum


class ExitCode(IntEnum):
    """The status with which the command ends."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    AUTH = 4
    UNREACHABLE = 5
    OUTCOME_UNKNOWN = 6
    FINDINGS = 7
    INTERRUPTED = 130


MEANINGS: Mapping[ExitCode, str] = {
    ExitCode.OK: "The command did what it was asked to do.",
    ExitCode.FAILED: "It failed; the message says why.",
    ExitCode.USAGE: "An option, an argument or a setting is wrong. Nothing was sent.",
    ExitCode.NOT_FOUND: "The server has no such run, checkpoint, session or model.",
    ExitCode.AUTH: "The API key is missing, or the server does not accept it for this.",
    ExitCode.UNREACHABLE: "The server did not answer, or not in the time allowed.",
    ExitCode.OUTCOME_UNKNOWN: "A training step was sent, and whether it was applied is unknown.",
    ExitCode.FINDINGS: "The command ended well and found something to mend, as doctor does.",
    ExitCode.INTERRUPTED: "Ctrl-C ended it.",
}

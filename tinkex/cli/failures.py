"""Errors on the command line: from an exception to an exit code, a message and the next command.

The first line of an error says what failed, the last line, `hint: …`, is a command that can be
pasted. `--debug` or TINKEX_DEBUG=1 shows the traceback. With `--json` the error is an object on
stdout: `{"error": {"code", "message", "hint", "request_id"}}`.
"""

from __future__ import annotations

import json
import shlex
import sys
import traceback
from pathlib import Path
from typing import Any

import click
from click.exceptions import NoArgsIsHelpError

from tinkex.cli.exit_codes import ExitCode
from tinkex.cli.invocation import Invocation, current


class Failure(Exception):
    """An error that ends the command, with its exit code and the command to run next.

    Args:
        message: what failed, in the user's words.
        code: the exit code.
        hint: a command that can be pasted; None where there is none.
        request_id: the server's id of the request that failed.
    """

    def __init__(
        self,
        message: str,
        *,
        code: int = ExitCode.FAILED,
        hint: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.code = message, ExitCode(code)
        self.hint, self.request_id = hint, request_id

    def described(self, *, color: bool = False) -> str:
        error, hint = "Error:", "hint:"
        if color:
            error, hint = click.style(error, fg="red", bold=True), click.style(hint, fg="cyan")
        lines = [f"{error} {self.message}"]
        if self.request_id:
            lines.append(f"  request {self.request_id}")
        return "\n".join([*lines, *([f"{hint} {self.hint}"] if self.hint else [])])

    def as_json(self) -> str:
        """Returns the error as an object in one line."""
        error = {
            "code": int(self.code),
            "message": self.message,
            "hint": self.hint,
            "request_id": self.request_id,
        }
        return json.dumps({"error": error})


def again_with(option: str) -> str:
    """Returns the present command line with an option added, to be pasted."""
    return shlex.join(["tinkex", *current().args, option])


def current_path() -> str:
    """Returns the words of the running command, such as "tinkex run list"."""
    return current().command_path


def end(error: BaseException, invocation: Invocation) -> int:
    """Reports an exception that ended the command, and returns the exit code."""
    if isinstance(error, NoArgsIsHelpError) and not invocation.json:
        error.show()
        return ExitCode.USAGE
    failure = explain(error, invocation)
    if invocation.debug and failure.code != ExitCode.INTERRUPTED:
        traceback.print_exception(error)
    if invocation.json:
        sys.stdout.write(failure.as_json() + "\n")
        sys.stdout.flush()
    else:
        from tinkex.cli.terminal import Terminal

        color = Terminal.of(sys.stderr).color
        sys.stderr.write(failure.described(color=color) + "\n")
    return int(failure.code)


def explain(error: BaseException, invocation: Invocation) -> Failure:
    """Returns what is said of an exception."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return Failure("interrupted", code=ExitCode.INTERRUPTED)
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else invocation.command_path
        return Failure(
            _sentence(error.format_message()), code=ExitCode.USAGE, hint=f"{path} --help"
        )
    if isinstance(error, click.ClickException):
        return Failure(error.format_message(), code=error.exit_code)
    from tinkex.errors import TinkexError

    if isinstance(error, TinkexError):
        return _of_tinkex(error, invocation)
    if isinstance(error, OSError):
        return _of_system(error, invocation)
    return Failure(
        f"{type(error).__name__}: {error}. This is a mistake in tinkex, or in code that it ran",
        hint=_debug_hint(invocation),
    )


def _of_system(error: OSError, invocation: Invocation) -> Failure:
    where = f"{error.filename}: " if error.filename else ""
    message, file = f"{where}{error.strerror or error}", str(error.filename)
    named = any(arg == file or arg.endswith(f"={file}") for arg in invocation.args)
    if named and isinstance(error, (FileNotFoundError, IsADirectoryError)):
        folder = shlex.quote(str(Path(file).parent))
        return Failure(message, code=ExitCode.USAGE, hint=f"ls {folder}")
    return Failure(message, hint=_debug_hint(invocation))


def _of_tinkex(error: Any, invocation: Invocation) -> Failure:
    code = code_of(error)
    lines = [f"{_BEFORE.get(type(error).__name__, '')}{error.message}"]
    if error.wait:
        lines.append(f"  {error.wait}")
    if code == ExitCode.UNREACHABLE:
        lines.append("  `tinkex serve` starts a server on this machine.")
    elif error.advice and code != ExitCode.AUTH:
        lines.append(f"  {error.advice}")
    return Failure(
        "\n".join(lines),
        code=code,
        hint=_HINTS.get(code) or _hint_of(error, code, invocation),
        request_id=error.request_id,
    )


def code_of(error: Exception) -> ExitCode:
    """Returns the exit code for an error of the client: that of the first class that fits."""
    from tinkex import errors

    codes: list[tuple[type[Exception] | tuple[type[Exception], ...], ExitCode]] = [
        ((errors.NotFoundError, errors.GoneError), ExitCode.NOT_FOUND),
        ((errors.AuthenticationError, errors.PermissionDeniedError), ExitCode.AUTH),
        ((errors.MissingKeyError, errors.CredentialError), ExitCode.AUTH),
        ((errors.StepOutcomeUnknown, errors.ClientPoisonedError), ExitCode.OUTCOME_UNKNOWN),
        ((errors.APIConnectionError, errors.WaitTimeoutError), ExitCode.UNREACHABLE),
        (errors.NotATinkerServerError, ExitCode.UNREACHABLE),
        ((errors.ConfigError, errors.InvalidInputError), ExitCode.USAGE),
    ]
    return next((code for kinds, code in codes if isinstance(error, kinds)), ExitCode.FAILED)


_BEFORE = {
    "AuthenticationError": "the server does not accept the API key: ",
    "PermissionDeniedError": "the API key does not allow this: ",
}
"""Words before the server's own, by the class of the error."""
_HINTS = {
    ExitCode.AUTH: "tinkex auth login",
    ExitCode.UNREACHABLE: "tinkex doctor",
    ExitCode.OUTCOME_UNKNOWN: "tinkex checkpoint list",
}


def _hint_of(error: Any, code: ExitCode, invocation: Invocation) -> str:
    words = invocation.command_path.split()
    if code == ExitCode.USAGE:
        if file := getattr(error, "path", ""):  # of a line that cannot be used
            return f"tinkex data check {shlex.quote(file)}"
        return f"{invocation.command_path} --help"
    is_missing = code == ExitCode.NOT_FOUND
    if error.operation in _OF_CHECKPOINTS or (is_missing and error.operation in _OF_MODELS):
        return "tinkex checkpoint list"
    if error.operation in _OF_MODELS and error.fault == "user":
        return "tinkex model list"
    if is_missing:
        if words[-1] != "list" and words[1:2] and words[1] in _LISTED:
            return f"tinkex {words[1]} list"
        return "tinkex doctor"
    if error.fault == "user":
        return f"{invocation.command_path} --help"
    return _debug_hint(invocation)


_OF_CHECKPOINTS = frozenset({"load_weights", "get_weights_info"})
"""The calls that a server refuses for a checkpoint that it does not have."""
_OF_MODELS = frozenset({"create_model", "create_sampling_session"})
"""The calls that a server refuses for a model that it does not have."""
_LISTED = frozenset({"run", "checkpoint", "session", "model"})
"""The groups that have a command `list`."""


def _debug_hint(invocation: Invocation) -> str:
    """Returns the command line with a traceback, or the help where the line is too long to read."""
    line = f"TINKEX_DEBUG=1 {shlex.join(['tinkex', *invocation.args])}"
    return line if len(line) <= _LONGEST_HINT else f"{invocation.command_path} --help"


_LONGEST_HINT = 500  # characters


def _sentence(message: str) -> str:
    """Returns a message of click without its final full stop."""
    return message.rstrip().removesuffix(".")

"""The command `tinkex` as a process, in a pipe or on a terminal of its own."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import select
import struct
import sys
import tempfile
import termios
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.reduction import DupFd
from typing import Any, Self

import aiohttp  # noqa: F401 - so that the processes have imported it
from attrs import define, field, frozen

import tinkex.sync.rest  # noqa: F401 - likewise
from tinkex.cli import main

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["tests.support.counting_engine", "tests.support.bridge_process", "tests.support.command_line"]
)
SECONDS = 60.0  # of which a quiet machine needs one


@frozen
class Done:
    """The end of a command: its exit code, and what it wrote."""

    code: int
    out: str
    err: str


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    kept = {n: v for n, v in os.environ.items() if n not in ("COLUMNS", "LINES", "NO_COLOR")}
    return {**kept, "TERM": "xterm-256color", **variables}


def in_pipe(*args: str, given: str | None = None, **variables: str) -> Done:
    """Runs `tinkex` with pipes, and with nothing on stdin unless something is given."""
    with (
        tempfile.TemporaryFile("w+") as stdin,
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
    ):
        stdin.write(given or "")
        stdin.seek(0)
        process = start(args, [stdin.fileno(), out.fileno(), err.fileno()], variables)
        process.join(SECONDS)
        out.seek(0)
        err.seek(0)
        return Done(_code(process), out.read(), err.read())


def start(
    args: Sequence[str],
    descriptors: Sequence[int],
    variables: Mapping[str, str],
    *,
    controlling: bool = False,
) -> Any:
    """Starts `tinkex` in a process that has imported it already, with stdin, stdout and stderr.
    `controlling` says that stdin is the terminal that sends it signals.
    """
    duplicates = [*map(DupFd, descriptors)]
    process = _FORKS.Process(
        target=_run, args=(args, duplicates, _environment(variables), controlling), daemon=True
    )
    process.start()
    return process


def _run(
    args: Sequence[str],
    descriptors: Sequence[Any],
    environment: Mapping[str, str],
    controlling: bool,
) -> None:
    os.setsid()  # no terminal but the one that is given
    for number, duplicate in enumerate(descriptors):
        os.dup2(duplicate.detach(), number)
    if controlling:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, encoding="utf-8") for number, mode in enumerate("rww")
    )
    sys.__stdout__ = sys.stdout  # which is asked for its width
    sys.argv = ["tinkex", *args]
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    main()


def _code(process: Any) -> int:
    assert process.exitcode is not None, "it did not end"
    code: int = process.exitcode
    process.close()
    return code


def on_terminal(
    *args: str,
    columns: int = 100,
    answers: Mapping[str, str] | None = None,
    out_is_pipe: bool = False,
    **variables: str,
) -> Done:
    """Runs `tinkex` on a terminal: one for stdin and stdout, and one for stderr.

    Args:
        args: the arguments.
        columns: the width of the terminal.
        answers: what is typed after a text has appeared on stderr.
        out_is_pipe: whether stdout is a pipe instead.
        variables: variables of the environment.
    """
    out, err = _Terminal(columns), _Terminal(columns)
    pipe = os.pipe() if out_is_pipe else None
    process = start(args, [out.inner, pipe[1] if pipe else out.inner, err.inner], variables)
    out.close_inner()
    err.close_inner()
    reader = pipe[0] if pipe else out.outer
    if pipe:
        os.close(pipe[1])
    waiting = dict(answers or {})
    written = {reader: b"", err.outer: b""}
    open_ones = {reader, err.outer}
    end = time.monotonic() + SECONDS
    while open_ones:
        ready, _, _ = select.select(list(open_ones), [], [], max(0.0, end - time.monotonic()))
        assert ready, f"tinkex {' '.join(args)} did not end: {written}"
        for descriptor in ready:
            piece = b""
            with suppress(OSError):  # Linux reports the end of a terminal as an error.
                piece = os.read(descriptor, 65536)
            written[descriptor] += piece
            if not piece:
                open_ones.discard(descriptor)
        for text in [text for text in waiting if text.encode() in written[err.outer]]:
            os.write(out.outer, waiting.pop(text).encode())
    process.join(SECONDS)
    for descriptor in {out.outer, err.outer, reader}:
        os.close(descriptor)
    assert not waiting, f"nothing asked {list(waiting)}: {written}"
    texts = [written[one].decode().replace("\r\n", "\n") for one in (reader, err.outer)]
    return Done(_code(process), *texts)


class OnTerminal:
    """`tinkex` on one terminal, which controls it: a Ctrl-C that is typed is a signal. As a context
    manager it ends what still runs.
    """

    def __init__(self, *args: str, columns: int = 100, **variables: str) -> None:
        terminal = _Terminal(columns)
        self._outer = terminal.outer
        self.shown = ""
        """The text that the terminal has got so far."""
        self._process = start(args, [terminal.inner] * 3, variables, controlling=True)
        terminal.close_inner()

    def type(self, text: str) -> None:
        os.write(self._outer, text.encode())

    def wait_for(self, text: str) -> None:
        """Returns once the terminal has got a text."""
        end = time.monotonic() + SECONDS
        while text not in self.shown:
            assert self._read(end), f"no {text!r} in {self.shown}"

    def end(self) -> int:
        """Waits for the end of the command, and returns its exit code."""
        end = time.monotonic() + SECONDS
        while self._read(end):
            pass
        self._process.join(max(0.0, end - time.monotonic()))
        return _code(self._process)

    def _read(self, end: float) -> bool:
        """Reads what comes next. Returns False at the end, or when it is too late."""
        ready, _, _ = select.select([self._outer], [], [], max(0.0, end - time.monotonic()))
        piece = b""
        if ready:
            with suppress(OSError):  # Linux reports the end of a terminal as an error.
                piece = os.read(self._outer, 65536)
        self.shown += piece.decode(errors="replace").replace("\r\n", "\n")
        return bool(piece)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(ValueError):  # it has ended
            self._process.kill()
        os.close(self._outer)


@define
class _Terminal:
    """A pseudo-terminal: `outer` is our end of it."""

    columns: int
    outer: int = field(init=False)
    inner: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.outer, self.inner = os.openpty()
        fcntl.ioctl(self.inner, termios.TIOCSWINSZ, struct.pack("HHHH", 40, self.columns, 0, 0))

    def close_inner(self) -> None:
        os.close(self.inner)

"""`Output`: what every command writes through.

stdout has the data and nothing else; status lines, warnings, hints and questions go to stderr. The
data has one of four forms:

human   stdout is a terminal: tables cut to its width, sizes and times as people write them
plain   stdout is a pipe or a file: a line for each row, with tabs between the values, nothing cut
json    `--json`: an array or an object, of all fields or of those of `--json=FIELD,FIELD`
quiet   `-q`: the ids, one a line
"""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

import click
from attrs import define, field

from tinkex.cli.terminal import Terminal

if TYPE_CHECKING:
    from rich.console import Console

Mode = Literal["human", "plain", "json", "quiet"]
Row = Mapping[str, Any]


class Size(int):
    """A number of bytes, which is data as a number and text as "1.2 GB"."""


@define(eq=False)
class Output:
    """The two streams of a command, and the form in which it was asked to write.

    A row is a mapping of field names to values: texts, numbers, booleans, None, `datetime`, `Size`,
    and lists and mappings of those. The type of a value decides how it is shown.

    Example:
        from tinkex.cli.output import Output, Size

        output = Output("plain", ("id", "model", "size_bytes"))
        output.table([{"id": "a", "model": "m", "size_bytes": Size(1200)}])
        output.status("One thing is listed.")
    """

    mode: Mode
    fields: Sequence[str]
    """The fields that a row has, in order."""
    chosen: Sequence[str] | None = None
    """The fields of `--json=FIELD,FIELD`; None for all."""
    id_field: str = "id"
    """The field that `-q` writes."""
    no_truncate: bool = False
    out: TextIO = field(factory=lambda: sys.stdout)
    err: TextIO = field(factory=lambda: sys.stderr)
    terminal: Terminal = field(init=False)
    err_terminal: Terminal = field(init=False)
    color: Literal["auto", "always", "never"] = "auto"
    _console: Console | None = field(default=None, init=False)
    _err_console: Console | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.terminal = Terminal.of(self.out, self.color)
        self.err_terminal = Terminal.of(self.err, self.color)
        for stream in (self.out, self.err):
            if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
                stream.reconfigure(errors="replace")

    # Data, on stdout.

    def table(self, rows: Iterable[Row], columns: Sequence[str] | None = None) -> int:
        """Writes rows, and returns their number.

        Args:
            rows: the rows; each is written when it comes, where the form allows it.
            columns: the fields that a person sees, in order; by default all. A pipe gets them, too.
        """
        shown = list(columns or self.fields)
        if self.mode == "json":
            values = [self._selected(row) for row in rows]
            self._write_json(values)
            return len(values)
        if self.mode == "human":
            values = [self._checked(row) for row in rows]
            self._write_table(values, shown)
            return len(values)
        count = 0
        for row in rows:
            self._write_plain(self._checked(row), shown)
            count += 1
        return count

    def listed(self, written: int, limit: int | None, what: str) -> None:
        """Says that a list is empty, or that it may go on after `limit` rows."""
        if not written:
            self.status(f"There are no {what}.")
        elif written == limit:
            self.status(f"The first {limit} {what} are listed; --all lists all.")

    def record(self, row: Row) -> None:
        """Writes one object: a line for each field, `name: value` for a person, else with a tab."""
        if self.mode == "json":
            self._write_json(self._selected(row))
        elif self.mode == "quiet":
            self._write_plain(self._checked(row), [])
        elif self.mode == "plain":
            for name, value in self._checked(row).items():
                self.out.write(f"{name}\t{plain(value)}\n")
        else:
            self._write_record(self._checked(row))
        self.out.flush()

    def event(self, row: Row) -> None:
        """Writes one of a series of objects at once, which is one line in every form.

        Its fields may be some of the declared ones.
        """
        if self.mode == "json":
            self.out.write(_dumped(self._selected(row, partial=True)) + "\n")
        elif self.mode == "quiet":
            self._write_plain(row, [])
        else:
            pairs = (f"{name}={self._shown(value)}" for name, value in row.items())
            self.out.write(" ".join(pairs) + "\n")
        self.out.flush()

    def text(self, text: str, *, end: str = "\n") -> None:
        """Writes text that is the data itself, such as a sample. Writes nothing in json mode, where
        `record` or `table` has it.
        """
        if self.mode != "json":
            self.out.write(text + end)
            self.out.flush()

    @property
    def console(self) -> Console:
        """The console of rich on stdout, for data in human mode that is no table."""
        self._console = self._console or self.terminal.console(self.out)
        return self._console

    # All else, on stderr.

    @property
    def err_console(self) -> Console:
        """The console of rich on stderr, for progress bars."""
        self._err_console = self._err_console or self.err_terminal.console(self.err)
        return self._err_console

    def status(self, text: str) -> None:
        """Says what was done, or what happens now. `-q` silences it."""
        if self.mode != "quiet":
            self._say(text)

    def warn(self, text: str) -> None:
        """Says what may be wrong, in every mode."""
        self._say(text, "warning: ", "yellow")

    def hint(self, command: str) -> None:
        """Shows a command to run next. `-q` silences it."""
        if self.mode != "quiet":
            self._say(command, "hint: ", "cyan")

    def can_write(self, text: str) -> bool:
        """Returns whether stdout has all characters of a text."""
        try:
            text.encode(self.out.encoding or "ascii")
        except UnicodeEncodeError:
            return False
        return True

    @property
    def can_ask(self) -> bool:
        """Whether somebody can answer a question: stdin and stderr are a terminal."""
        return self.mode == "human" and sys.stdin.isatty() and self.err.isatty()

    def confirm(self, question: str, details: str = "", *, yes: bool) -> None:
        """Returns if the user agrees, or has agreed by the command's option `--yes`.

        Args:
            question: the question, in one line.
            details: lines to read before the answer.
            yes: whether the option was given.

        Raises:
            Failure: the user does not agree, or there is no terminal to ask on.
        """
        from tinkex.cli.failures import Failure, again_with

        if yes:
            return
        if not self.can_ask:
            raise Failure(
                f"this needs an answer, and there is no terminal to ask on: {question} Nothing "
                "was done",
                code=2,
                hint=again_with("--yes"),
            )
        if details:
            self._say(details)
        if not click.confirm(question, err=True):
            raise Failure("not confirmed; nothing was done", hint=again_with("--yes"))

    def _say(self, text: str, label: str = "", color: str | None = None) -> None:
        if self._err_console is not None:  # A progress bar may be in the way of plain writes.
            from rich.text import Text

            self._err_console.print(Text.assemble((label, color or ""), text))
            return
        if label and self.err_terminal.color:
            label = click.style(label, fg=color)
        self.err.write(f"{label}{text}\n")
        self.err.flush()

    def _checked(self, row: Row) -> Row:
        """Returns the row. Raises `TypeError` for other fields than the declared ones."""
        if list(row) != list(self.fields):
            raise TypeError(f"a row has the fields {list(row)}, declared are {list(self.fields)}")
        return row

    def _selected(self, row: Row, *, partial: bool = False) -> Row:
        row = row if partial else self._checked(row)
        return row if self.chosen is None else {n: row[n] for n in self.chosen if n in row}

    def _shown(self, value: Any) -> str:
        return human(value) if self.mode == "human" else plain(value)

    def _write_json(self, value: Any) -> None:
        self.out.write(_dumped(value, indent=2 if self.terminal.is_tty else None) + "\n")
        self.out.flush()

    def _write_plain(self, row: Row, columns: Sequence[str]) -> None:
        names = [self.id_field] if self.mode == "quiet" else columns
        self.out.write("\t".join(plain(row[name]) for name in names) + "\n")
        self.out.flush()

    def _write_record(self, row: Row) -> None:
        from rich.text import Text

        width = max(map(len, row), default=0) + 1
        for name, value in row.items():
            label = f"{name}:".ljust(width)
            lines = human(value).split("\n")
            text = f"\n{' ' * (width + 1)}".join(lines)
            self.console.print(Text.assemble((label, "dim"), " ", text))

    def _write_table(self, rows: Sequence[Row], columns: Sequence[str]) -> None:
        from tinkex.cli.table import cut_to_width, print_table

        cells = [[human(row[name]).replace("\n", " ") for name in columns] for row in rows]
        right = [
            any(isinstance(row[name], (int, float)) for row in rows)
            and not any(isinstance(row[name], bool) for row in rows)
            for name in columns
        ]
        headers = [name.removesuffix("_bytes").replace("_", " ") for name in columns]
        keep = columns.index(self.id_field) if self.id_field in columns else None
        room = self.terminal.width if self.terminal.is_tty and not self.no_truncate else None
        fitted = cut_to_width([headers, *cells], room, keep)
        print_table(self.console, fitted.rows[0], fitted.rows[1:], right)
        if fitted.cut:
            names = ", ".join(headers[index] for index in fitted.cut)
            self._say(f"Cut to {self.terminal.width} columns: {names}. --no-truncate shows all.")


def human(value: Any) -> str:
    """Returns a value as a person reads it: sizes in units, times in the zone of this machine."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Size):
        return size(value)
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M")
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{n}={human(v)}" for n, v in value.items()) or "-"  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, (list, tuple)):
        return ", ".join(human(item) for item in value) or "-"  # pyright: ignore[reportUnknownVariableType]
    return str(value)


def size(number: int) -> str:
    """Returns a number of bytes as text, in units of 1000: "1.2 GB"."""
    amount, unit = float(number), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(amount) < 999.95 or unit == "TB":
            break
        amount /= 1000
    return f"{int(amount)} B" if unit == "B" else f"{amount:.1f} {unit}"


def as_data(value: Any) -> Any:
    """Returns a value as JSON has it: times in ISO 8601 and UTC, no NaN and no infinity."""
    if isinstance(value, datetime):
        zoned = value if value.tzinfo else value.replace(tzinfo=UTC)
        return zoned.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(n): as_data(v) for n, v in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, (list, tuple)):
        return [as_data(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return str(value) if isinstance(value, Path) else value


def plain(value: Any) -> str:
    """Returns a value as one field of a line: no tab, no end of a line, empty for None."""
    value = as_data(value)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list)):
        return _dumped(value)
    return " ".join(str(value).replace("\t", " ").splitlines())


def _dumped(value: Any, indent: int | None = None) -> str:
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "")
    return json.dumps(
        as_data(value), indent=indent, ensure_ascii=encoding != "utf8", allow_nan=False
    )

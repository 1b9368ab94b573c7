"""The rows of a JSONL file, and errors that name their line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from attrs import frozen

from tinkex.errors import InvalidInputError


class DataError(InvalidInputError):
    """A line of a data file that cannot be used. `path` and `line` say where it is.

    Example:
        try:
            data = tinkex.data.load("chats.jsonl", tokenizer)
        except DataError as error:
            print(error.path, error.line, error.message)
    """

    path: str = ""
    line: int = 0


@frozen
class Row:
    """One line of a JSONL file."""

    path: str
    line: int
    """The number of the line, from 1."""
    fields: Mapping[str, Any]

    def error(self, problem: str, advice: str | None = None) -> DataError:
        """Returns an error that names this line."""
        return error_at(self.path, self.line, problem, advice)


def error_at(path: str, line: int, problem: str, advice: str | None = None) -> DataError:
    """Returns an error that names a line of a file."""
    error = DataError(f"{path}:{line}: {problem}", advice=advice)
    error.path, error.line = path, line
    return error


def read_rows(path: Path | str) -> Iterator[Row]:
    """Yields the rows of a JSONL file. Blank lines are skipped.

    Raises:
        DataError: a line is not a JSON object in UTF-8.
        OSError: the file cannot be read.
    """
    for number, line in read_lines(path):
        yield parsed(str(path), number, line)


def read_lines(path: Path | str) -> Iterator[tuple[int, bytes]]:
    """Yields the lines that are not blank, with their numbers from 1."""
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line


def parsed(path: str, number: int, line: bytes) -> Row:
    """Returns the row of one line. Raises `DataError` if it is not a JSON object in UTF-8."""
    return Row(path, number, _object(path, number, line))


def _object(path: str, number: int, line: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(line.rstrip().decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise error_at(path, number, f"not UTF-8: {error.reason} at byte {error.start}") from error
    except json.JSONDecodeError as error:
        advice = None
        if number == 1 and line.lstrip()[:1] == b"[":
            advice = "The file must be JSONL: one object on each line, and no array around them."
        raise error_at(
            path, number, f"not JSON: {error.msg} at column {error.colno}", advice
        ) from (error)
    if not isinstance(value, dict):
        raise error_at(
            path,
            number,
            f"expected a JSON object, found {type(value).__name__}",
            "The file must be JSONL: one object on each line.",
        )
    return cast("dict[str, Any]", value)

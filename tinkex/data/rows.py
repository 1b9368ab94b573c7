"""The rows of a JSONL file, and errors that name their line."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from attrs import frozen

from tinkex.errors import InvalidInputError


class DataError(InvalidInputError):
    """A line of a data file that cannot be used. `path` and `line` say where it is, and `whole`
    whether the same is wrong with the whole file.

    Example:
        try:
            data = tinkex.data.load("chats.jsonl", tokenizer)
        except DataError as error:
            print(error.path, error.line, error.message)
    """

    path: str = ""
    line: int = 0
    whole: bool = False


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
        value: object = json.loads(line.rstrip().decode("utf-8-sig" if number == 1 else "utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        if number == 1 and (problem := _problem_of_file(path, line)) is not None:
            raise problem from error
        raise error_at(path, number, *_problem_of_line(error)) from error
    if isinstance(value, list) and number == 1:
        raise _of_file(path, *_array(path))
    if not isinstance(value, dict):
        raise error_at(
            path,
            number,
            f"expected a JSON object, found {type_name(cast('object', value))}",
            "The file must be JSONL: one object on each line.",
        )
    return cast("dict[str, Any]", value)


def _problem_of_line(error: UnicodeDecodeError | json.JSONDecodeError) -> tuple[str, str | None]:
    """Returns what is wrong with a line, and the advice."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8: {error.reason} at byte {error.start}", None
    problem = f"not JSON: {error.msg} at column {error.colno}"
    if error.doc[error.pos :].strip() == ",":
        return problem, "Remove the comma at the end of the line."
    return problem, None


def _problem_of_file(path: str, first: bytes) -> DataError | None:
    """Returns what is wrong with a whole file, by its first line; None if that cannot be told."""
    for beginning, problem, advice in _OTHER_FILES:
        if first.startswith(beginning):
            return _of_file(path, problem, advice)
    text = first.removeprefix(codecs.BOM_UTF8).strip()
    if text.startswith(b"["):
        return _of_file(path, *_array(path))
    if text == b"{":
        return _of_file(
            path,
            "an object on several lines",
            f"The file must be JSONL: one object on each line. `jq -c . {path}` writes it so.",
        )
    return None


def _array(path: str) -> tuple[str, str]:
    return (
        "an array of objects",
        "The file must be JSONL: one object on each line, and no array around them. "
        f"`jq -c '.[]' {path}` writes it so.",
    )


def _of_file(path: str, problem: str, advice: str) -> DataError:
    error = error_at(path, 1, problem, advice)
    error.whole = True
    return error


_OTHER_FILES = (
    (codecs.BOM_UTF16_LE, "not UTF-8, but UTF-16", "Convert it: iconv -f UTF-16 -t UTF-8."),
    (codecs.BOM_UTF16_BE, "not UTF-8, but UTF-16", "Convert it: iconv -f UTF-16 -t UTF-8."),
    (b"\x1f\x8b", "a file that gzip has compressed", "Unpack it first: gunzip."),
    (b"PAR1", "a Parquet file", "Convert it to JSONL, for example by pandas."),
)
"""The first bytes of other kinds of files, what they are, and the advice."""


def type_name(value: object) -> str:
    """Returns what a value is in the words of JSON."""
    if value == []:
        return "an empty list"
    names = {"dict": "an object", "list": "a list", "str": "text", "NoneType": "null"}
    return names.get(type(value).__name__, "a number")

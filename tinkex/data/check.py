"""`check`: what a data file holds, and what is wrong with it, line by line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from attrs import define, field

from tinkex.data.datasets import row_examples, row_pair, row_prompt
from tinkex.data.examples import Example
from tinkex.data.items import read_item, why_empty
from tinkex.data.rows import DataError, Row, parsed, read_lines
from tinkex.data.segments import Renderer
from tinkex.data.templates import ChatTemplate, chat_template
from tinkex.tokenizer import Tokenizer

_SHOWN = 3  # examples whose loss mask is kept to be shown


@define
class Report:
    """The findings of `check` in one file."""

    path: str
    rows: int = 0
    formats: Counter[str] = field(factory=Counter[str])
    """The number of rows of each format."""
    examples: int = 0
    tokens: int = 0
    loss_tokens: int = 0
    longest: int = 0
    """The tokens of the longest example."""
    longest_line: int = 0
    errors: list[DataError] = field(factory=list[DataError])
    """The rows that cannot be used."""
    empty: list[tuple[int, str]] = field(factory=list[tuple[int, str]])
    """The lines without a token to learn, each with the reason."""
    duplicates: list[tuple[int, int]] = field(factory=list[tuple[int, int]])
    """Lines that repeat an earlier one, each with that one."""
    cut: list[tuple[int, int]] = field(factory=list[tuple[int, int]])
    """Lines with an example over `max_length`, each with the tokens that it would lose."""
    shown: list[Example] = field(factory=list[Example])
    """The first examples, to show their loss mask."""

    @property
    def clean(self) -> bool:
        """Whether nothing was found that a training run would refuse, cut or leave out."""
        findings = self.errors or self.empty or self.duplicates or self.cut
        return self.examples > 0 and not findings


def check(
    path: Path | str,
    tokenizer: Tokenizer,
    *,
    template: ChatTemplate | None = None,
    max_length: int | None = None,
) -> Report:
    """Reads a whole JSONL file of examples, preference pairs or prompts, and reports on it.

    Unlike `load`, it goes on after a line that cannot be used, unless the whole file is no JSONL.

    Args: as for `load`.

    Raises:
        OSError: the file cannot be read.

    Example:
        report = tinkex.data.check("chats.jsonl", tokenizer, max_length=2048)
        for error in report.errors:
            print(error)
    """
    report = Report(str(path))
    renderer = Renderer(tokenizer, template or chat_template(tokenizer))
    seen: dict[tuple[bytes, ...], int] = {}
    for row in _rows_and_errors(path):
        report.rows += 1
        if isinstance(row, DataError):
            report.errors.append(row)
            if row.whole:
                break
            continue
        try:
            examples = _examples(row, renderer, report)
        except DataError as error:
            report.errors.append(error)
            continue
        _count(report, row, examples, max_length)
        key = tuple(part for e in examples for part in (e.tokens.tobytes(), e.weights.tobytes()))
        first = seen.setdefault(key, row.line)
        if examples and first != row.line:
            report.duplicates.append((row.line, first))
    return report


def _rows_and_errors(path: Path | str) -> Iterator[Row | DataError]:
    """Yields each row, or the error that reading its line raises."""
    for number, line in read_lines(path):
        try:
            yield parsed(str(path), number, line)
        except DataError as error:
            yield error


def _examples(row: Row, renderer: Renderer, report: Report) -> Sequence[Example]:
    if "chosen" in row.fields or "rejected" in row.fields:
        report.formats["preference pair"] += 1
        pair = row_pair(row, renderer)
        return [pair.chosen, pair.rejected]
    if "prompt" in row.fields and "completion" not in row.fields and "messages" not in row.fields:
        report.formats["prompt"] += 1
        prompt = row_prompt(row, renderer)
        return [Example(prompt.tokens, prompt.tokens * 0.0, row.line)]
    made = row_examples(row, renderer)
    report.formats[_format_name(row)] += 1
    return made


def _format_name(row: Row) -> str:
    if "messages" in row.fields or isinstance(row.fields.get("prompt"), list):
        return "chat"
    return "completion" if "prompt" in row.fields else "text"


def _count(report: Report, row: Row, examples: Sequence[Example], max_length: int | None) -> None:
    report.examples += len(examples)
    if not examples:
        report.empty.append((row.line, why_empty(read_item(row))))
    for example in examples:
        length = len(example.tokens)
        report.tokens += length
        report.loss_tokens += example.loss_tokens
        if length > report.longest:
            report.longest, report.longest_line = length, row.line
        if max_length is not None and length > max_length:
            report.cut.append((row.line, length - max_length))
        if len(report.shown) < _SHOWN:
            report.shown.append(example)

"""The command `tinkex data check`, which shows what a data file would teach, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tinkex.cli.command import command as data_command
from tinkex.cli.connection import Connection, connection_options
from tinkex.cli.exit_codes import ExitCode
from tinkex.cli.output import Output, plain

if TYPE_CHECKING:
    from tinkex import Tokenizer
    from tinkex.data import Report

FIELDS = (
    "file",
    "rows",
    "formats",
    "examples",
    "tokens",
    "loss_tokens",
    "longest",
    "longest_line",
    "errors",
    "empty",
    "duplicates",
    "cut",
)
_KINDS = "errors", "empty", "duplicates", "cut"  # of findings
_USES = {"preference pair": ", for dpo", "prompt": ", for rl, distill and eval --score"}
"""The uses of rows that `tinkex train sft` does not take."""
_LISTED = 10  # findings of a kind that are shown; `--json` has all


@data_command(
    "check",
    help=(
        "Show what a JSONL file would teach a model: the loss mask of its first examples, its "
        "tokens, and each line that is wrong, empty, a duplicate or too long. Ends with 7 if there "
        "is such a line."
    ),
    fields=FIELDS,
    examples=[
        "tinkex data check numbers.jsonl",
        "tinkex data check chats.jsonl --model tinkex/tiny --max-length 512 --json=errors,cut",
    ],
    id_field="file",
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "-m",
    "--model",
    default="tinkex/tiny",
    show_default=True,
    help="Model whose tokenizer reads the file: a hub id, a folder, or a model of --base-url.",
)
@click.option("--max-length", type=click.IntRange(2), help="Tokens after which examples are cut.")
@click.option("--chat-template", metavar="FUNCTION", help="Chat template, as for `tinkex train`.")
@connection_options
def command(
    output: Output,
    connection: Connection,
    file: Path,
    model: str,
    max_length: int | None,
    chat_template: str | None,
) -> None:
    """Checks a file and writes a report."""
    from tinkex.data import check
    from tinkex.recipes import load_function

    template = load_function(chat_template) if chat_template else None
    tokenizer = _tokenizer(connection, model)
    report = check(file, tokenizer, template=template, max_length=max_length)
    if output.mode == "human":
        _show(output, report, tokenizer)
    elif output.mode == "plain":
        _write_lines(output, report)
    else:
        output.record(_row(report))
    if not report.clean:
        click.get_current_context().exit(int(ExitCode.FINDINGS))


def _tokenizer(connection: Connection, model: str) -> Tokenizer:
    """Returns the model's tokenizer: from the server if one was named, else by its name."""
    from tinkex import get_tokenizer

    if connection.base_url is None:
        return get_tokenizer(model)
    return connection.service.create_sampling_client(base_model=model).get_tokenizer()


def _row(report: Report) -> dict[str, Any]:
    return {
        "file": report.path,
        "rows": report.rows,
        "formats": dict(report.formats),
        "examples": report.examples,
        "tokens": report.tokens,
        "loss_tokens": report.loss_tokens,
        "longest": report.longest,
        "longest_line": report.longest_line,
        "errors": [
            {"line": error.line, "message": error.message, "advice": error.advice}
            for error in report.errors
        ],
        "empty": [{"line": line, "reason": reason} for line, reason in report.empty],
        "duplicates": [{"line": line, "of": first} for line, first in report.duplicates],
        "cut": [{"line": line, "tokens": tokens} for line, tokens in report.cut],
    }


def _write_lines(output: Output, report: Report) -> None:
    """Writes the fields, with the number of findings of each kind, and a line for each finding:
    `line`, its number, the kind and what is known about it.
    """
    row = _row(report)
    output.record(row | {kind: len(row[kind]) for kind in _KINDS})
    for kind in _KINDS:
        for finding in row[kind][:_LISTED]:
            line, *details = finding.values()
            output.text("\t".join(map(plain, ("line", line, kind, *details))))
        _say_more(output, len(row[kind]), f"lines of {kind}")


def _say_more(output: Output, found: int, what: str) -> None:
    if found > _LISTED:
        output.status(f"… and {found - _LISTED:,} more {what}; --json lists all")


def _show(output: Output, report: Report, tokenizer: Tokenizer) -> None:
    for example in report.shown:
        output.text(_masked(output, report, example.line, list(example.pieces(tokenizer))))
    kinds = ", ".join(
        f"{count:,} of format {name}{_USES.get(name, '')}" for name, count in report.formats.items()
    )
    nothing = "none that can be read" if report.rows else "the file is empty"
    output.text(f"{report.rows:,} rows: {kinds or nothing}")
    if report.examples:
        output.text(
            f"{report.examples:,} examples of {report.tokens:,} tokens, {report.loss_tokens:,} of "
            f"them in the loss; the longest has {report.longest:,} (line {report.longest_line})"
        )
    for lines in _findings(report):
        output.text("\n".join(lines[:_LISTED]))
        _say_more(output, len(lines), "such lines")
    output.text("Nothing wrong was found." if report.clean else "")


def _masked(output: Output, report: Report, line: int, pieces: list[Any]) -> str:
    """Returns an example with what is trained on in color, or in «» where there are no colors."""
    texts: list[str] = []
    for piece in pieces:
        if not piece.trained:
            texts.append(piece.text)
        elif output.terminal.color:
            texts.append(click.style(piece.text, fg="green", bold=True))
        else:
            texts.append(f"«{piece.text}»")
    body = "".join(texts).replace("\n", "\n  ")
    return f"line {line} of {report.path}, trained on where it is marked:\n  {body}"


def _findings(report: Report) -> Iterator[list[str]]:
    """Yields the lines about each kind of finding."""
    if report.errors:
        yield [f"error: {error}" for error in report.errors]
    if report.empty:
        yield [
            f"line {line}: nothing to learn, so that it is left out: {reason}"
            for line, reason in report.empty
        ]
    if report.duplicates:
        yield [f"line {line}: the same as line {first}" for line, first in report.duplicates]
    if report.cut:
        yield [f"line {line}: its last {tokens:,} tokens are cut" for line, tokens in report.cut]

"""`command`: the decorator of every command that writes data. It adds the options of the output and
gives the command its `Output`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from tinkex.cli.invocation import Invocation, current
from tinkex.cli.output import Mode, Output
from tinkex.cli.terminal import Terminal

_OPTIONS = "Output options"
_NAMES_ELSEWHERE = {
    "--lr": "--learning-rate",
    **dict.fromkeys(("--lora-rank", "--lora-r", "--r"), "--rank"),
    **dict.fromkeys(("--bs", "--per-device-train-batch-size"), "--batch-size"),
    **dict.fromkeys(("--num-epochs", "--num-train-epochs"), "--epochs"),
    **dict.fromkeys(("--max-steps", "--num-steps", "--iters"), "--steps"),
    **dict.fromkeys(("--max-seq-length", "--max-seq-len", "--cutoff-len"), "--max-length"),
    **dict.fromkeys(("--output-dir", "--output"), "--out"),
    **dict.fromkeys(("--dataset", "--train-data", "--train-file"), "--data"),
    **dict.fromkeys(("--eval-dataset", "--test-data", "--val-data"), "--eval-data"),
    **dict.fromkeys(("--model-name-or-path", "--model-name"), "--model"),
    **dict.fromkeys(("--max-new-tokens", "--max-length", "--num-predict"), "--max-tokens"),
    **dict.fromkeys(("--num-samples", "--num-return-sequences"), "-n"),
    "--num-generations": "--group-size",
    "--report-to": "--log",
}
"""The options of other programs that train and sample, and ours."""


def command(
    name: str,
    *,
    help: str,
    fields: Sequence[str],
    examples: Sequence[str],
    id_field: str = "id",
) -> Callable[[Callable[..., None]], Command]:
    """Makes a command of a function whose first parameter is `output`, an `Output`.

    Args:
        name: the name on the command line.
        help: what the command does; the first sentence is its line in the list of commands.
        fields: the fields of the rows or of the object that it writes, for `--json=FIELD,FIELD`.
        examples: two or three command lines, which begin with `tinkex`; a test runs them.
        id_field: the field that `-q` writes.
    """

    def decorate(function: Callable[..., None]) -> Command:
        made = click.command(
            name, cls=Command, help=help, fields=fields, examples=examples, id_field=id_field
        )
        return made(function)

    return decorate


def listing_options(function: Callable[..., None]) -> Callable[..., None]:
    """Adds `--limit`, `--all` and `--no-truncate`. The command gets `limit`, None for all."""
    options = [
        click.option(
            "--limit",
            type=click.IntRange(min=0),
            default=20,
            show_default=True,
            help="Number of rows; 0 for all.",
        ),
        click.option("--all", "everything", is_flag=True, help="List all, page by page."),
        click.option("--no-truncate", is_flag=True, help="Do not cut columns to the width."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


class Command(click.Command):
    """A command that writes data through an `Output`."""

    def __init__(
        self,
        *args: Any,
        fields: Sequence[str],
        examples: Sequence[str],
        id_field: str,
        **settings: Any,
    ) -> None:
        super().__init__(*args, **settings)
        self.fields, self.examples, self.id_field = tuple(fields), tuple(examples), id_field
        self.output_params = _output_options(self._chosen)
        self.params.extend(self.output_params)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.ensure_object(Invocation).note(ctx.command_path, args)
        try:
            return super().parse_args(ctx, _with_explicit_json(args))
        except click.NoSuchOption as error:
            meant = _NAMES_ELSEWHERE.get(error.option_name, "")
            if not any(meant in param.opts for param in self.params):
                raise
            words = f"No such option {error.option_name!r}. Did you mean {meant!r}?"
            raise click.NoSuchOption(error.option_name, words, ctx=error.ctx) from error

    def invoke(self, ctx: click.Context) -> Any:
        given = {param.name: ctx.params.pop(param.name) for param in self.output_params}
        limit = ctx.params.get("limit")
        if ctx.params.pop("everything", False) or limit == 0:
            ctx.params["limit"] = None
        wanted = given["json_fields"]
        output = Output(
            mode=_mode(wanted is not None, given["quiet"]),
            fields=self.fields,
            id_field=self.id_field,
            no_truncate=ctx.params.pop("no_truncate", False),
            color=given["color"],
        )
        if wanted:
            output.chosen = wanted
        ctx.params["output"] = output
        return super().invoke(ctx)

    def _chosen(
        self, ctx: click.Context, param: click.Parameter, text: str | None
    ) -> Sequence[str] | None:
        """Returns the fields of `--json=`: none for all, and None without the option."""
        from tinkex.cli.field_names import named_fields

        return None if text is None else named_fields(text, "--json", self.fields)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        with formatter.section("Examples"):
            for example in self.examples:
                formatter.write(f"{' ' * formatter.current_indent}{example}\n")
        self.format_options(ctx, formatter)
        self.format_epilog(ctx, formatter)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own = [p for p in self.get_params(ctx) if p not in self.output_params]
        for title, params in (("Options", own), (_OPTIONS, self.output_params)):
            records = [
                record
                for param in params
                if (record := param.get_help_record(ctx)) and record[1]  # an argument has no words
            ]
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
        with formatter.section("Fields"):
            formatter.write_text(", ".join(self.fields))


def _output_options(chosen: Callable[..., Sequence[str] | None]) -> list[click.Option]:
    return [
        click.Option(
            ["--json", "json_fields"],
            metavar="[=FIELD,…]",
            is_eager=True,  # so that a wrong field is told before what else is wrong
            callback=chosen,
            help="Write JSON, with all fields or with those named; errors are JSON, too.",
        ),
        click.Option(["-q", "--quiet"], is_flag=True, help="Write ids only, one a line."),
        click.Option(
            ["--color"],
            type=click.Choice(["auto", "always", "never"]),
            default="auto",
            help="When to use colors.  [default: on a terminal]",
        ),
        click.Option(["--debug"], is_flag=True, help="Show the traceback of an error."),
    ]


def _with_explicit_json(args: Sequence[str]) -> list[str]:
    """Returns the arguments with `--json=` for a `--json` alone, which would else take the argument
    after it as its fields.
    """
    end = args.index("--") if "--" in args else len(args)
    return [*("--json=" if arg == "--json" else arg for arg in args[:end]), *args[end:]]


def _mode(wants_json: bool, quiet: bool) -> Mode:
    if wants_json and quiet:
        raise click.UsageError("--json and --quiet exclude each other")
    if quiet:
        return "quiet"
    default = current().default_format
    if wants_json or default == "json":
        return "json"
    return "human" if default == "table" or Terminal.of(sys.stdout).is_tty else "plain"

"""The command `tinkex help`."""

from __future__ import annotations

import click

from tinkex.cli.command import command as data_command
from tinkex.cli.exit_codes import ExitCode
from tinkex.cli.failures import Failure
from tinkex.cli.output import Output


@data_command(
    "help",
    help=(
        "Explain a command, such as `tinkex help run list`, or a topic: exit-codes, environment "
        "or formatting."
    ),
    fields=("topic", "text"),
    examples=["tinkex help exit-codes", "tinkex help checkpoint delete"],
    id_field="topic",
)
@click.argument("words", nargs=-1, metavar="[TOPIC | COMMAND...]")
def command(output: Output, words: tuple[str, ...]) -> None:
    """Explains a topic or a command."""
    text = _text(words)
    if output.mode == "json":
        output.record({"topic": " ".join(words), "text": text})
    elif output.mode == "quiet":
        from tinkex.cli.topics import TOPICS

        output.text("\n".join(TOPICS))
    else:
        output.text(text.rstrip("\n"))


def _text(words: tuple[str, ...]) -> str:
    from tinkex.cli import suggestion
    from tinkex.cli.topics import TOPICS

    if len(words) == 1 and words[0] in TOPICS:
        return TOPICS[words[0]]()
    ctx = click.get_current_context().find_root()
    group = ctx.command
    for word in words:
        known = group.list_commands(ctx) if isinstance(group, click.Group) else []
        found = group.get_command(ctx, word) if isinstance(group, click.Group) else None
        if found is None:
            topics = list(TOPICS) if len(words) == 1 else []
            name = " ".join(words)
            raise Failure(
                f"there is no command or topic {name}{suggestion(word, [*known, *topics])}",
                code=ExitCode.USAGE,
                hint="tinkex help",
            )
        ctx, group = click.Context(found, ctx, word), found
    more = "" if words else f"\nTopics: tinkex help {' | '.join(TOPICS)}\n"
    return f"{group.get_help(ctx)}\n{more}"

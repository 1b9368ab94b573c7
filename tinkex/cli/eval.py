"""The command `tinkex eval`, which evaluates a model on held-out data."""

from __future__ import annotations

import click

from tinkex.cli.command import command as data_command
from tinkex.cli.connection import Connection, connection_options
from tinkex.cli.embedded import choose_server
from tinkex.cli.output import Output

FIELDS = ("model", "data", "loss", "loss_tokens", "examples", "score", "answers")


@data_command(
    "eval",
    help=(
        "Evaluate a model on a JSONL file: the loss per token of its completions, in nats, and "
        "with --score the mean score of the likeliest answers to its prompts."
    ),
    fields=FIELDS,
    examples=[
        "tinkex eval -m tinkex/tiny --data held_out.jsonl",
        "tinkex eval -m tinker://RUN/sampler_weights/NAME --data test.jsonl --score exact_match",
        "tinkex eval -m tinkex/tiny --data prompts.jsonl --score rewards.py:vowels --json=score",
    ],
    id_field="loss",
)
@click.option(
    "-m",
    "--model",
    metavar="MODEL|PATH",
    default="tinkex/tiny",
    show_default=True,
    help="Base model, or path of saved weights (tinker://…).",
)
@click.option(
    "--base-model",
    metavar="MODEL",
    help="Base model of the saved weights, for servers that do not tell it.",
)
@click.option("--data", metavar="FILE", help="JSONL file of held-out rows.  [required]")
@click.option(
    "--score",
    "scorer",
    metavar="FUNCTION",
    help=(
        "Function score(row, answer) -> number, as module:function or file.py:function; or "
        "`exact_match`, which compares with the row's own answer."
    ),
)
@click.option(
    "--max-tokens",
    default=64,
    show_default=True,
    type=click.IntRange(1),
    help="Most tokens of an answer.",
)
@click.option("--stop", multiple=True, help="Text that ends an answer; repeatable.")
@click.option("--limit", type=click.IntRange(1), help="Use the first rows only.")
@click.option("--chat-template", metavar="FUNCTION", help="Chat template, as for `tinkex train`.")
@connection_options
def command(
    output: Output,
    connection: Connection,
    model: str,
    base_model: str | None,
    data: str | None,
    scorer: str | None,
    max_tokens: int,
    stop: tuple[str, ...],
    limit: int | None,
    chat_template: str | None,
) -> None:
    """Evaluates a model and writes one record."""
    from tinkex.recipes import exact_match, load_function
    from tinkex.recipes.evaluate import evaluate

    if data is None:
        raise click.UsageError("Missing option '--data'")
    score = None
    if scorer is not None:
        score = exact_match if scorer == "exact_match" else load_function(scorer)
    template = load_function(chat_template) if chat_template else None
    choose_server(output, connection, "evaluates", keeps="://" in model)
    found = evaluate(
        connection.service,
        model,
        data,
        base_model=base_model,
        scorer=score,
        max_tokens=max_tokens,
        stop=stop,
        limit=limit,
        template=template,
    )
    output.record(
        {
            "model": model,
            "data": data,
            "loss": found.loss,
            "loss_tokens": found.loss_tokens,
            "examples": found.examples,
            "score": found.score,
            "answers": found.answers,
        }
    )

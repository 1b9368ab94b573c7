"""The command `tinkex demo`, which trains a small model on this machine in about a minute."""

from __future__ import annotations

import csv
import time
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tinkex.cli.command import command as data_command
from tinkex.cli.failures import Failure
from tinkex.cli.output import Output

if TYPE_CHECKING:
    from tinkex import ServiceClient
    from tinkex.demo.numbers import Example
    from tinkex.demo.training import Step

_WINDOW = 20  # steps over which the loss is averaged
_SHOWN = 8  # numbers in the table of samples
_HEIGHT = 8  # lines of the curve of losses
FIELDS = (
    *("checkpoint", "model", "steps", "first_loss", "last_loss", "right_before", "right_after"),
    *("losses", "picture", "seconds"),
)


@data_command(
    "demo",
    help=(
        "Train a small language model to write numbers in digits, and sample from it. Without "
        "--base-url an embedded server does it on this machine, which needs no key and no GPU."
    ),
    fields=FIELDS,
    examples=["tinkex demo", "tinkex demo --steps 100 --json=first_loss,last_loss"],
    id_field="checkpoint",
)
@click.option("--base-url", metavar="URL", help="Server to use.  [default: an embedded one]")
@click.option("--model", default="tinkex/tiny", show_default=True, help="Base model.")
@click.option("--rank", default=16, show_default=True, help="Rank of the LoRA adapter.")
@click.option(
    "--steps", default=400, show_default=True, type=click.IntRange(1), help="Steps to train."
)
@click.option(
    "--learning-rate",
    default=3e-3,
    show_default=True,
    help="Fits tinkex/tiny; large models want a tenth or less.",
)
@click.option(
    "--seed", default=0, show_default=True, help="For the adapter's first weights, and the batches."
)
@click.option(
    "--out",
    default="out/demo",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the losses and their curve.",
)
def command(
    output: Output,
    base_url: str | None,
    model: str,
    rank: int,
    steps: int,
    learning_rate: float,
    seed: int,
    out: Path,
) -> None:
    """Trains, samples before and after, and draws the curve of the losses."""
    began = time.monotonic()
    output.status(f"{model} learns to write numbers in digits, by a LoRA adapter of rank {rank}.")
    with _service(output, base_url, model) as service:
        row = _run(output, service, model, rank, steps, learning_rate, seed, out)
    seconds = time.monotonic() - began
    output.record({**row, "seconds": round(seconds, 1)})
    if not base_url:
        output.status(
            "The embedded server has ended, with its checkpoints; `tinkex serve` keeps them."
        )
    output.hint("tinkex init")


@contextmanager
def _service(output: Output, base_url: str | None, model: str) -> Generator[ServiceClient]:
    """Yields a client of the server, or of an embedded one that runs as long as this does."""
    from tinkex import ServiceClient

    if base_url:
        with ServiceClient(base_url=base_url) as service:
            yield service
        return
    output.status("Starting the embedded server, whose engine takes some seconds to load …")
    import tinkex.local

    try:
        server = tinkex.local.serve(model)
    except (ImportError, ValueError) as error:
        raise Failure(
            f"the embedded server cannot start: {error}",
            hint="pip install torch 'tinkex[local]'",
        ) from error
    with server, ServiceClient(base_url=server.base_url, api_key="tml-local") as service:
        output.status(f"It runs at {server.base_url}; open that in a browser to watch.")
        wait([server.ready])  # here, where it was said what takes so long
        yield service


def _run(
    output: Output,
    service: ServiceClient,
    model: str,
    rank: int,
    steps: int,
    learning_rate: float,
    seed: int,
    out: Path,
) -> dict[str, object]:
    from tinkex.demo.numbers import complete, read, score, to_datum
    from tinkex.demo.training import fine_tune

    train, held_out = read("train"), read("held_out")
    trainer = service.create_lora_training_client(model, rank=rank, seed=seed)
    tokenizer = trainer.get_tokenizer()
    before = complete(service.create_sampling_client(base_model=model), tokenizer, held_out)
    output.status(f"Right before training: {score(held_out, before):.0%} of {len(held_out)}.")
    data = [to_datum(tokenizer, example) for example in train]
    training = fine_tune(trainer, data, steps=steps, learning_rate=learning_rate, seed=seed)
    done = _show_progress(output, training, steps)
    path = trainer.save_weights_for_sampler("numbers").result().path
    after = complete(service.create_sampling_client(path), tokenizer, held_out)
    _show_samples(output, held_out, before, after)
    _show_curve(output, done)
    right = f"{score(held_out, before):.0%} right before, {score(held_out, after):.0%} after"
    output.status(f"Held-out numbers: {right}.")
    return {
        "checkpoint": path,
        "model": model,
        "steps": len(done),
        "first_loss": done[0].loss,
        "last_loss": _mean_loss(done[-_WINDOW:]),
        "right_before": score(held_out, before),
        "right_after": score(held_out, after),
        "losses": _write_losses(done, out),
        "picture": _draw_losses(
            output, done, f"Numbers to digits: {right} (held-out numbers)", out
        ),
    }


def _mean_loss(steps: Sequence[Step]) -> float:
    return sum(step.loss for step in steps) / len(steps)


def _show_progress(output: Output, training: Iterable[Step], total: int) -> Sequence[Step]:
    """Takes the steps as they are done, with a line of progress on stderr."""
    from tinkex.display.progress import progress

    steps: list[Step] = []
    tokens, began = 0, time.monotonic()
    shown = progress(training, total=total, console=output.err_console)
    for step in shown:
        steps.append(step)
        tokens += step.tokens
        rate = tokens / (time.monotonic() - began)
        shown.show(loss=_mean_loss(steps[-_WINDOW:]), tokens_per_second=round(rate))
    return steps


def _show_samples(
    output: Output, examples: Sequence[Example], before: Sequence[str], after: Sequence[str]
) -> None:
    """Shows a person what the model wrote before and after training."""
    from rich.table import Table
    from rich.text import Text

    if output.mode != "human":
        return
    table = Table("held-out number", "before", "after", "right")
    for example, first, last in list(zip(examples, before, after, strict=True))[:_SHOWN]:
        colour = "green" if last == example.completion else "red"
        table.add_row(
            example.prompt.removesuffix(" ="),
            Text(repr(first)),
            Text(last.strip(), colour),
            example.completion.strip(),
        )
    output.err_console.print(table)


def _show_curve(output: Output, steps: Sequence[Step]) -> None:
    """Draws the losses in a person's terminal."""
    from rich.text import Text

    from tinkex.cli.curve import with_scale

    if output.mode != "human" or not output.can_write("⣿"):
        return
    lines = with_scale([step.loss for step in steps], min(output.terminal.width, 80), _HEIGHT)
    output.err_console.print(Text("\n".join(["loss in nats a token", *lines])))


def _write_losses(steps: Sequence[Step], out: Path) -> str:
    out.mkdir(parents=True, exist_ok=True)
    with (out / "loss.csv").open("w", newline="") as file:
        rows = [(number, f"{step.loss:.6f}") for number, step in enumerate(steps, 1)]
        csv.writer(file).writerows([("step", "loss"), *rows])
    return str(out / "loss.csv")


def _draw_losses(output: Output, steps: Sequence[Step], title: str, out: Path) -> str | None:
    """Draws the curve; returns None where matplotlib, of the extra `plot`, is not installed."""
    from tinkex import plot

    rows = [{"loss a token (nats)": step.loss} for step in steps]
    try:
        figure: Any = plot.curves(rows, smooth=_WINDOW + 1, title=title)
    except ImportError:
        output.status("For a picture of the losses: pip install 'tinkex[plot]'")
        return None
    figure.savefig(out / "loss.png", dpi=150)
    return str(out / "loss.png")

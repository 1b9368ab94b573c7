"""A language model learns to write numbers in digits: `make demo`, or on any Tinker server `python examples/demo.py --base-url URL`.

Without --base-url it starts the embedded server in this process and trains its small model, `tinkex/tiny`.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import tinkex
from tinkex import (
    AdamParams,
    APIFuture,
    Datum,
    ForwardBackwardOutput,
    ModelInput,
    OptimStepResponse,
    SamplingClient,
    ServiceClient,
    Tokenizer,
    TrainingClient,
)

DATA = Path(__file__).parent / "data"
GREEDY = {"max_tokens": 8, "temperature": 0.0, "stop": ["\n"]}
SHOWN = 6  # held-out items, in the table
console = Console(highlight=False)


class Item(NamedTuple):
    words: str
    digits: str

    @property
    def prompt(self) -> str:
        return f"{self.words} ="

    @property
    def answer(self) -> str:
        return f" {self.digits}\n"


class Step(NamedTuple):
    loss: float  # nats a token of the answers
    tokens: int  # that the model read
    ended: float  # seconds, by the monotonic clock


class SentStep(NamedTuple):
    batch: Sequence[Datum]
    losses: APIFuture[ForwardBackwardOutput]
    update: APIFuture[OptimStepResponse]

    def wait(self) -> Step:
        loss = self.losses.result().metrics["loss:sum"] / sum(answer_tokens(datum) for datum in self.batch)
        self.update.result()
        return Step(loss, sum(datum.model_input.length for datum in self.batch), time.monotonic())


def main() -> None:
    options = parse_options()
    try:
        with served(options) as base_url, ServiceClient(base_url=base_url, api_key=options.api_key) as service:
            run(service, options)
    except tinkex.TinkexError as error:
        console.print(f"[red]{type(error).__name__}[/red] {error}", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("interrupted")
        sys.exit(130)


def run(service: ServiceClient, options: argparse.Namespace) -> None:
    train, held_out = read("numbers.train.tsv"), read("numbers.held_out.tsv")
    trainer = service.create_lora_training_client(options.model, rank=options.rank, seed=options.seed)
    tokenizer = trainer.get_tokenizer()
    console.print(f"{options.model} learns to write {len(train)} numbers in digits, by a LoRA adapter of rank {options.rank}.")

    before = answers(trainer.save_weights_and_get_sampling_client(), tokenizer, held_out)
    steps = fine_tune(trainer, tokenizer, train, options)
    path = trainer.save_weights_for_sampler("numbers").result().path
    after = answers(service.create_sampling_client(model_path=path, base_model=options.model), tokenizer, held_out)

    show(held_out, before, after)
    console.print(f"loss {steps[0].loss:.2f} -> {mean_loss(steps[-20:]):.3f} nats a token; weights saved as {path}", soft_wrap=True)
    write_curve(steps, score(held_out, before), score(held_out, after), options.out)


def fine_tune(trainer: TrainingClient, tokenizer: Tokenizer, train: Sequence[Item], options: argparse.Namespace) -> Sequence[Step]:
    """Trains on random batches. The next one is always sent before the last one is waited for, so the server never idles."""
    rng, steps, sent = random.Random(options.seed), list[Step](), deque[SentStep]()
    with progress(options.steps) as show_progress:
        for number in range(options.steps):
            batch = [datum(tokenizer, item) for item in rng.sample(train, options.batch)]
            learning_rate = options.learning_rate * min(1.0, 2 * (1 - number / options.steps))  # falls in the second half
            losses = trainer.forward_backward(batch, "cross_entropy")
            update = trainer.optim_step(AdamParams(learning_rate=learning_rate))
            sent.append(SentStep(batch, losses, update))
            while len(sent) > (1 if number < options.steps - 1 else 0):
                steps.append(sent.popleft().wait())
                show_progress(steps)
    return steps


def datum(tokenizer: Tokenizer, item: Item) -> Datum:
    """Each token is to foretell the next one; only those of the answer count."""
    prompt, answer = tokenizer.encode(item.prompt), tokenizer.encode(item.answer)
    tokens = [*prompt, *answer]
    return Datum(
        model_input=ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={"target_tokens": tokens[1:], "weights": [0.0] * (len(prompt) - 1) + [1.0] * len(answer)},
    )


def answer_tokens(datum: Datum) -> float:
    return sum(datum.loss_fn_inputs["weights"].tolist())


def answers(sampler: SamplingClient, tokenizer: Tokenizer, items: Sequence[Item]) -> Sequence[str]:
    """What the model writes after each item's words, the likeliest token each time."""
    futures = [sampler.sample(tokenizer.encode(item.prompt), 1, GREEDY) for item in items]
    return [tokenizer.decode(future.result().sequences[0].tokens).strip() for future in futures]


def score(items: Sequence[Item], given: Sequence[str]) -> float:
    return sum(item.digits == answer for item, answer in zip(items, given, strict=True)) / len(items)


def mean_loss(steps: Sequence[Step]) -> float:
    return sum(step.loss for step in steps) / len(steps)


def read(name: str) -> Sequence[Item]:
    return [Item(*line.split("\t")) for line in (DATA / name).read_text().splitlines()]


@contextmanager
def served(options: argparse.Namespace) -> Iterator[str]:
    """The base URL of the server that was named, or of one that runs as long as this does."""
    if options.base_url:
        yield options.base_url
        return
    import tinkex.local  # here, since it needs torch

    try:
        with console.status("starting the embedded server"):
            server = tinkex.local.serve(options.model)
    except (ValueError, ImportError) as error:  # no such model; or the extra `local` is missing
        sys.exit(str(error))
    with server:
        console.print(f"The embedded server runs at {server.base_url}.")
        yield server.base_url


@contextmanager
def progress(total: int) -> Iterator[Callable[[Sequence[Step]], None]]:
    """A bar with loss, tokens per second and time left; where there is no terminal, a line now and then."""
    columns = [
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(bar_width=None),
        TextColumn("loss {task.fields[loss]:.3f}  {task.fields[speed]:,.0f} tokens/s"),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        began = time.monotonic()
        task = bar.add_task("", total=total, loss=float("nan"), speed=0.0)

        def show_progress(steps: Sequence[Step]) -> None:
            loss = mean_loss(steps[-10:])
            speed = sum(step.tokens for step in steps) / (steps[-1].ended - began)
            bar.update(task, completed=len(steps), loss=loss, speed=speed)
            if not console.is_terminal and len(steps) % 50 == 0:
                console.print(f"step {len(steps)} of {total}  loss {loss:.3f}  {speed:,.0f} tokens/s")

        yield show_progress


def show(items: Sequence[Item], before: Sequence[str], after: Sequence[str]) -> None:
    table = Table("held-out number", "before", "after", "right", title="What the model writes after the words")
    for item, first, last in list(zip(items, before, after, strict=True))[:SHOWN]:
        colour = "green" if last == item.digits else "red"
        table.add_row(item.words, first or "(nothing)", f"[{colour}]{last}[/{colour}]", item.digits)
    console.print(table)
    console.print(f"held-out numbers right: {score(items, before):.0%} before, [bold]{score(items, after):.0%} after[/bold]")


def write_curve(steps: Sequence[Step], before: float, after: float, out: Path) -> None:
    """The losses as a table and, where matplotlib is installed (extra `plot`), as a picture."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "loss.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("step", "loss"), *((number, f"{step.loss:.6f}") for number, step in enumerate(steps, start=1))]
        )
    try:
        import matplotlib
    except ImportError:
        console.print(f"losses written to {out / 'loss.csv'}; `pip install 'tinkex[plot]'` for a picture of them")
        return
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 3.4), layout="constrained")
    numbers = range(1, len(steps) + 1)
    smooth = [mean_loss(steps[max(0, index - 9) : index + 1]) for index in range(len(steps))]
    axes.plot(numbers, [step.loss for step in steps], color="#9ecae1", linewidth=0.8, label="each step")
    axes.plot(numbers, smooth, color="#08519c", linewidth=2.0, label="mean of 10")
    axes.set(xlabel="step", ylabel="loss, nats a token", ylim=(0, None), xlim=(1, len(steps)))
    axes.set_title(f"Numbers to digits: {before:.0%} of held-out numbers right before, {after:.0%} after", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(out / "loss.png", dpi=150)
    console.print(f"loss curve drawn to {out / 'loss.png'}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--base-url", help="server to train on, instead of an embedded one")
    parser.add_argument("--api-key", help="its key, by default TINKER_API_KEY")
    parser.add_argument("--model", default="tinkex/tiny", help="base model")
    parser.add_argument("--rank", type=int, default=32, help="of the LoRA adapter")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="at the start")
    parser.add_argument("--batch", type=int, default=16, help="numbers in a batch")
    parser.add_argument("--steps", type=int, default=300, help="batches to train on")
    parser.add_argument("--seed", type=int, default=0, help="of the adapter's first weights and of the batches")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for the loss curve")
    return parser.parse_args()


if __name__ == "__main__":
    main()

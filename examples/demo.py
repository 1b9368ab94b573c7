"""A language model learns to write numbers in digits: "four hundred and two =" becomes 402.

Without --base-url it starts the embedded server in this process and fine-tunes its small model.
With it, the same code runs on any server that speaks the Tinker API.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from tinkex import (
    AdamParams,
    APIFuture,
    Datum,
    ModelInput,
    SamplingClient,
    ServiceClient,
    TinkexError,
    Tokenizer,
    TrainingClient,
)
from tinkex.types import ForwardBackwardOutput, OptimStepResponse

DATA = Path(__file__).parent / "data"
BATCH = 8  # examples a step
WINDOW = 20  # steps over which the loss is smoothed
GREEDY = {"max_tokens": 8, "temperature": 0.0, "stop": ["\n"]}
STARTED = time.monotonic()
console = Console(highlight=False)


class Example(NamedTuple):
    prompt: str  # "four hundred and two ="
    completion: str  # " 402"


class Step(NamedTuple):
    loss: float  # nats a token of the completions
    tokens: int  # read by the model


class SentStep(NamedTuple):
    batch: Sequence[Datum]
    gradients: APIFuture[ForwardBackwardOutput]
    update: APIFuture[OptimStepResponse]

    def wait(self) -> Step:
        loss = self.gradients.result().metrics["loss:sum"]
        self.update.result()
        learned = sum(datum.loss_fn_inputs["weights"].tolist().count(1.0) for datum in self.batch)
        return Step(loss / learned, sum(datum.model_input.length for datum in self.batch))


def main() -> None:
    options = parse_options()
    try:
        with (
            server_url(options) as url,
            ServiceClient(base_url=url, api_key=options.api_key) as service,
        ):
            run(service, options)
    except TinkexError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        console.print("interrupted")
        sys.exit(130)


def run(service: ServiceClient, options: argparse.Namespace) -> None:
    train, held_out = read("numbers.train.jsonl"), read("numbers.held_out.jsonl")
    console.print(
        f"[bold]{options.model} learns to write numbers in digits[/bold], by a LoRA adapter of "
        f"rank {options.rank}:"
    )
    console.print(
        f"  {options.steps} steps on {len(train)} numbers; scored on {len(held_out)} others that "
        "it is never trained on."
    )

    trainer = service.create_lora_training_client(
        options.model, rank=options.rank, seed=options.seed
    )
    tokenizer = trainer.get_tokenizer()
    before = complete(service.create_sampling_client(base_model=options.model), tokenizer, held_out)
    console.print(f"held-out numbers right before training: {score(held_out, before):.0%}")

    steps = show_progress(fine_tune(trainer, tokenizer, train, options), options.steps)

    path = trainer.save_weights_for_sampler("numbers").result().path
    after = complete(service.create_sampling_client(path), tokenizer, held_out)
    show_samples(held_out, before, after)
    console.print(
        f"held-out numbers right: {score(held_out, before):.0%} before, "
        f"[bold]{score(held_out, after):.0%} after[/bold]"
    )
    console.print(
        f"loss a token: {steps[0].loss:.2f} at the start, {mean_loss(steps[-WINDOW:]):.3f} at the "
        "end"
    )
    console.print(f"weights saved, and sampled from: {path}", soft_wrap=True)
    write_losses(steps, options.out)
    draw_losses(
        steps,
        f"{score(held_out, before):.0%} right before, {score(held_out, after):.0%} after",
        options.out,
    )
    console.print(f"done in {time.monotonic() - STARTED:.0f} s")


def fine_tune(
    trainer: TrainingClient,
    tokenizer: Tokenizer,
    train: Sequence[Example],
    options: argparse.Namespace,
) -> Iterator[Step]:
    """Trains, and yields each step when it is done. The next one has been sent by then, so that the
    server never idles.
    """
    data = [to_datum(tokenizer, example) for example in train]
    rng, sent = random.Random(options.seed), deque[SentStep]()
    for number in range(options.steps):
        batch = rng.sample(data, BATCH)
        # falls in the second half
        learning_rate = options.learning_rate * min(1.0, 2 * (1 - number / options.steps))
        gradients = trainer.forward_backward(batch, "cross_entropy")
        update = trainer.optim_step(AdamParams(learning_rate=learning_rate))
        sent.append(SentStep(batch, gradients, update))
        if len(sent) == 2:
            yield sent.popleft().wait()
    for step in sent:
        yield step.wait()


def to_datum(tokenizer: Tokenizer, example: Example) -> Datum:
    """Makes a datum in which only the tokens of the completion have a weight."""
    prompt, completion = (
        tokenizer.encode(example.prompt),
        tokenizer.encode(example.completion + "\n"),
    )
    tokens = prompt + completion
    weights = [0.0] * (len(prompt) - 1) + [1.0] * len(completion)
    return Datum(
        ModelInput.from_ints(tokens[:-1]), {"target_tokens": tokens[1:], "weights": weights}
    )


def complete(
    sampler: SamplingClient, tokenizer: Tokenizer, examples: Sequence[Example]
) -> Sequence[str]:
    """Returns what the model writes after each prompt, at temperature 0. All prompts are sent
    before the first result is awaited.
    """
    futures = [sampler.sample(tokenizer.encode(example.prompt), 1, GREEDY) for example in examples]
    return [
        tokenizer.decode(future.result().sequences[0].tokens).rstrip("\n") for future in futures
    ]


def score(examples: Sequence[Example], completions: Sequence[str]) -> float:
    return sum(
        example.completion == written
        for example, written in zip(examples, completions, strict=True)
    ) / len(examples)


def mean_loss(steps: Sequence[Step]) -> float:
    return sum(step.loss for step in steps) / len(steps)


def read(name: str) -> Sequence[Example]:
    return [Example(**json.loads(line)) for line in (DATA / name).read_text().splitlines()]


@contextmanager
def server_url(options: argparse.Namespace) -> Generator[str]:
    """Yields the URL of the server that was named, or of an embedded one that runs as long as this
    does.
    """
    if options.base_url:
        yield options.base_url
        return
    import tinkex.local  # here, since only the embedded server needs torch

    console.print("starting the embedded server ...")
    try:
        server = tinkex.local.serve(options.model)
    except (ImportError, ValueError) as error:
        sys.exit(f"error: the embedded server cannot start: {error}")
    with server:
        console.print(f"it runs at {server.base_url}")
        yield server.base_url


def show_progress(training: Iterable[Step], total: int) -> Sequence[Step]:
    """Takes the steps as they are done. Shows a bar, or where there is no terminal, a line now and
    then.
    """
    columns = [
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    ]
    steps: list[Step] = []
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task, began = bar.add_task("", total=total), time.monotonic()
        for step in training:
            steps.append(step)
            seconds, loss = time.monotonic() - began, mean_loss(steps[-WINDOW:])
            text = f"loss {loss:.3f}, {sum(step.tokens for step in steps) / seconds:,.0f} tokens/s"
            bar.update(task, advance=1, description=text)
            if not console.is_terminal and len(steps) % (total // 10 or 1) == 0:
                console.print(
                    f"step {len(steps)}/{total}: {text}, "
                    f"{seconds / len(steps) * (total - len(steps)):.0f} s left"
                )
    return steps


def show_samples(
    examples: Sequence[Example], before: Sequence[str], after: Sequence[str], shown: int = 8
) -> None:
    table = Table("held-out number", "before", "after", "right")
    for example, first, last in list(zip(examples, before, after, strict=True))[:shown]:
        colour = "green" if last == example.completion else "red"
        table.add_row(
            example.prompt.removesuffix(" ="),
            Text(repr(first)),
            Text(last.strip(), colour),
            example.completion.strip(),
        )
    console.print(table)


def write_losses(steps: Sequence[Step], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with (out / "loss.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [
                ("step", "loss"),
                *((number, f"{step.loss:.6f}") for number, step in enumerate(steps, 1)),
            ]
        )
    console.print(f"losses written to {out / 'loss.csv'}")


def draw_losses(steps: Sequence[Step], result: str, out: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        console.print(
            "no picture of them: it needs matplotlib (pip install 'tinkex[plot]')", markup=False
        )
        return
    numbers = range(1, len(steps) + 1)
    # to each side, less at the ends
    reach = [min(n - 1, len(steps) - n, WINDOW // 2) for n in numbers]
    smooth = [mean_loss(steps[n - 1 - r : n + r]) for n, r in zip(numbers, reach, strict=True)]
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(
        numbers, [step.loss for step in steps], color="#9ecae1", linewidth=0.8, label="each step"
    )
    axes.plot(numbers, smooth, color="#08519c", linewidth=2.2, label=f"mean of {WINDOW + 1} steps")
    axes.set(
        xlabel="step", ylabel="loss a token (nats)", xlim=(1, max(2, len(steps))), ylim=(0, None)
    )
    axes.set_title(f"Numbers to digits: {result} (held-out numbers)", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(out / "loss.png", dpi=150)
    console.print(f"loss curve drawn in {out / 'loss.png'}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--base-url", help="the server; without it, an embedded one")
    parser.add_argument("--api-key", help="its key; without it, TINKER_API_KEY")
    parser.add_argument("--model", default="tinkex/tiny", help="base model")
    parser.add_argument("--rank", type=int, default=16, help="of the LoRA adapter")
    parser.add_argument("--steps", type=int, default=400, help="how long to train")
    parser.add_argument(
        "--learning-rate",
        type=float,
        default=3e-3,
        help="fits tinkex/tiny; large models want a tenth or less",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the adapter's first weights, and of the batches"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/demo"), help="folder for the loss curve"
    )
    options = parser.parse_args()
    if options.steps < 1:
        parser.error("--steps must be 1 or more")
    return options


if __name__ == "__main__":
    main()

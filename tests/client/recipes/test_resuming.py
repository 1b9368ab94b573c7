"""Runs that end early and go on: by Ctrl-C, and by kill -9. Their losses are those of a run that
nothing disturbed.
"""

from __future__ import annotations

import io
import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.client.recipes.conftest import COLORS
from tests.support.wait_until import wait_until
from tinkex import ServiceClient, TrainingClient, events
from tinkex.errors import InvalidInputError
from tinkex.local import Server
from tinkex.recipes import Interrupts, Result, RlConfig, SftConfig, resume, train
from tinkex.recipes.batches import BatchOrder
from tinkex.recipes.run_folder import RunFolder

REWARDS = str(Path(__file__).parent / "rewards.py")
STEPS = 8
Write = Callable[..., str]


def config(path: str, out: Path, **others: Any) -> SftConfig:
    settings = {"steps": STEPS, "batch_size": 2, "rank": 4, "save_every": 3, **others}
    return SftConfig(data=path, out=str(out), **settings)


def losses(metrics: Sequence[Mapping[str, float]]) -> list[tuple[int, float]]:
    return [(int(step["step"]), step["loss"]) for step in metrics]


@pytest.fixture
def colors(data: Write) -> str:
    return data(*COLORS)


@pytest.fixture
def undisturbed(service: ServiceClient, colors: str, tmp_path: Path) -> Result:
    return train(config(colors, tmp_path / "undisturbed"), service)


def started(colors: str, out: Path, base_url: str) -> subprocess.Popen[str]:
    """Starts the command line on a run, as in a pipe."""
    flags = f"--steps {STEPS} --batch-size 2 --rank 4 --save-every 3 --base-url {base_url}"
    return command(f"tinkex train sft --data {colors} --out {out} {flags}")


def command(line: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tinkex.cli", *shlex.split(line)[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def steps_of(out: Path) -> list[dict[str, float]]:
    path = out / "metrics.jsonl"
    text = path.read_text() if path.is_file() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def test_ctrl_c_saves_and_prints_the_command_that_resumes(
    undisturbed: Result, torch_server: Server, colors: str, tmp_path: Path
) -> None:
    out = tmp_path / "disturbed"
    process = started(colors, out, torch_server.base_url)
    wait_until(lambda: len(steps_of(out)) >= 1, seconds=60)
    process.send_signal(signal.SIGINT)
    data, status = process.communicate()
    assert process.returncode == 130
    row = dict(line.split("\t") for line in data.splitlines())
    assert row["interrupted"] == "true"
    assert 1 <= int(row["steps"]) < STEPS
    assert "Ctrl-C again ends at once" in status
    assert "\x1b" not in data + status
    assert "\r" not in data + status
    hint = re.findall(r"^hint: (.*)$", status, re.MULTILINE)[-1]
    assert hint == f"tinkex train sft --resume {out} --base-url {torch_server.base_url}"
    resumed = command(hint)
    resumed.communicate()
    assert resumed.returncode == 0
    assert losses(steps_of(out)) == losses(undisturbed.metrics)


def test_kill_9_loses_only_what_was_not_saved(
    undisturbed: Result,
    service: ServiceClient,
    torch_server: Server,
    colors: str,
    tmp_path: Path,
) -> None:
    out = tmp_path / "disturbed"
    process = started(colors, out, torch_server.base_url)
    wait_until(lambda: len(steps_of(out)) >= 4, seconds=60)
    process.kill()
    process.communicate()
    # a line that was being written when the process was killed
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    result = resume(out, service)
    assert losses(result.metrics) == losses(undisturbed.metrics)
    assert losses(steps_of(out)) == losses(undisturbed.metrics)
    assert result.state.sampler_path is not None
    # a run that has ended has nothing left to do
    again = resume(out, service)
    assert (again.state, losses(again.metrics)) == (result.state, losses(result.metrics))


def test_rl_goes_on_with_the_same_prompts_and_samples(
    service: ServiceClient, data: Write, tmp_path: Path
) -> None:
    path = data(*({"prompt": f"{letter} = "} for letter in "abcde"))

    def settings(out: str) -> RlConfig:
        return RlConfig(
            data=path,
            reward=f"{REWARDS}:vowels",
            steps=4,
            batch_size=2,
            group_size=4,
            max_tokens=3,
            rank=4,
            out=str(tmp_path / out),
        )

    whole = train(settings("whole"), service)
    with asking_after(2) as interrupts:
        first = train(settings("parts"), service, interrupts=interrupts)
    assert (first.interrupted, first.state.step) == (True, 2)
    second = resume(tmp_path / "parts", service)
    keys = ("step", "reward", "entropy", "tokens")
    assert [[step[key] for key in keys] for step in second.metrics] == [
        [step[key] for key in keys] for step in whole.metrics
    ]


@contextmanager
def asking_after(steps: int) -> Generator[Interrupts]:
    """Yields what asks a run to end once so many steps were applied."""
    interrupts, applied = Interrupts(lambda: None), 0

    def count(event: events.Event) -> None:
        nonlocal applied
        assert isinstance(event, events.TrainingStep)
        applied += event.operation == "optim_step"
        if applied == steps:
            interrupts.ask()

    events.attach(count, ["training.step"])
    yield interrupts
    events.detach(count)


def test_a_step_that_fails_leaves_the_last_save_to_resume_from(
    undisturbed: Result,
    service: ServiceClient,
    colors: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "disturbed"
    calls = iter(range(100))
    optim_step = TrainingClient.optim_step

    def fails_later(self: TrainingClient, *args: Any, **kwargs: Any) -> Any:
        if next(calls) == 5:
            raise RuntimeError("a fault of the network")
        return optim_step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingClient, "optim_step", fails_later)
        shown = io.StringIO()
        with pytest.raises(RuntimeError, match="fault"):
            train(config(colors, out), service, console=Console(file=shown))
    assert f"to go on: tinkex train sft --resume {out}" in shown.getvalue().replace("\n", "")
    assert losses(resume(out, service).metrics) == losses(undisturbed.metrics)


def test_a_run_that_fails_before_its_first_save_can_be_resumed(
    service: ServiceClient, colors: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save", failing)
        shown = io.StringIO()
        with pytest.raises(RuntimeError, match="no save"):
            train(config(colors, out, steps=1), service, console=Console(file=shown))
    command = f"tinkex train sft --resume {out}"
    assert f"the run is not saved yet; to go on: {command}" in shown.getvalue().replace("\n", "")
    assert [step["step"] for step in resume(out, service).metrics] == [1]


def failing(*_: object) -> None:
    raise RuntimeError("no save")


def test_a_resumed_run_refuses_what_would_change_its_next_batch(
    service: ServiceClient, colors: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    train(config(colors, out, steps=1), service)
    with pytest.raises(InvalidInputError, match="a resumed run keeps its batch_size"):
        resume(out, service, {"batch_size": 3})
    with pytest.raises(InvalidInputError, match="has a run already") as error:
        train(config(colors, out), service)
    assert f"--resume {out}" in str(error.value)
    shown = io.StringIO()
    resume(out, service, console=Console(file=shown))
    assert "all 1 steps are done, and --steps takes more" in shown.getvalue().replace("\n", " ")
    longer = resume(out, service, {"steps": 2})
    assert [step["step"] for step in longer.metrics] == [1, 2]
    Path(colors).write_text('{"text": "other"}\n')
    with pytest.raises(InvalidInputError, match="has changed since the run began"):
        resume(out, service)
    with pytest.raises(InvalidInputError, match="has no run to resume"):
        resume(tmp_path, service)


def test_each_epoch_has_every_row_once_in_an_order_of_its_own() -> None:
    order = BatchOrder(rows=7, batch_size=3, seed=5)
    places = [place for step in range(7) for place in order.places(step)]
    epochs = [places[first : first + 7] for first in (0, 7, 14)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(7))] * 3
    assert epochs[0] != epochs[1] != epochs[2]
    assert BatchOrder(7, 3, 5).places(4) == places[12:15]
    assert BatchOrder(7, 3, 6).places(4) != places[12:15]


def test_the_second_signal_ends_at_once() -> None:
    said: list[str] = []
    with Interrupts(lambda: said.append("saving")) as interrupts:
        signal.raise_signal(signal.SIGINT)
        assert (interrupts.asked, said) == (True, ["saving"])
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

"""Random programs over a network that loses requests and answers all the time: whatever the server
does with repeats, a recoverable run ends with the results and the weights of an undisturbed one.

The fake engine's weights are a digest of all steps and of their order, so that a step that is
missing, doubled or misplaced changes all results after it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from attrs import define, field

from tests.support.batches import datum
from tests.support.facades import steps_of
from tests.support.faulty_proxy import HTML, Fault, Faulty, Instead, faulty, unreadable
from tinkex import (
    AdamParams,
    ChunkLimits,
    Config,
    Datum,
    NumpyLoss,
    PollSettings,
    RecoveryPolicy,
    RetrySettings,
    SamplingParams,
    TinkexError,
)
from tinkex.local import serve

STEPS = 8
LOST: tuple[Fault | Instead, ...] = (
    *get_args(Fault),
    Instead(408),
    Instead(502, b"<html>Bad gateway</html>", HTML),
    unreadable("half JSON"),
    unreadable("web page"),
)
RARE = 0.1
"""The share of requests that go wrong."""


@define(eq=False)
class Lossy(Faulty):
    """A proxy of which the seed alone decides what goes wrong with the nth request of a path."""

    base_url: str = ""
    seed: str | None = None
    """None while nothing goes wrong."""
    counts: Counter[str] = field(factory=Counter)

    def next_fault(self, call: str) -> Fault | Instead | None:
        with self.lock:
            self.counts[call] += 1
            chance = random.Random(f"{self.seed} {call} {self.counts[call]}")
        return chance.choice(LOST) if self.seed and chance.random() < RARE else None


def squares(data: list[Datum], logprobs: list[Any]) -> tuple[float, list[Any], dict[str, float]]:
    return sum(float((row**2).sum()) for row in logprobs), [2 * row for row in logprobs], {}


def do(trainer: Any, step: int) -> list[Any]:
    """Does one step of a random program, and returns its results."""
    chance = random.Random(step)

    def batch() -> list[Datum]:
        return [datum(*chance.choices(range(90), k=3)) for _ in range(chance.randint(1, 3))]

    under_way = [
        trainer.forward_backward_custom(batch(), NumpyLoss(squares))
        if chance.random() < 0.3
        else trainer.forward_backward(batch(), "cross_entropy")
        for _ in range(chance.randint(1, 2))
    ]
    update = trainer.optim_step(AdamParams(learning_rate=chance.random()))
    results = [future.result().metrics["loss:sum"] for future in under_way]
    update.result()
    if chance.random() < 0.3:
        sampler = trainer.save_weights_and_get_sampling_client()
        params = SamplingParams(max_tokens=4, seed=step)
        results.append(list(sampler.sample([1, 2], 1, params).result().sequences[0].tokens))
    return results


def weights_of(data_dir: Path) -> bytes:
    """Returns the file of the checkpoint "end" that was saved last."""
    found = data_dir.glob("checkpoints/*/weights/end*/fake_adapter.json")
    return max(found, key=lambda path: path.stat().st_mtime_ns).read_bytes()


@pytest.mark.parametrize("profile", ["tinkex", "hosted", "tuft", "open-rl"])
def test_a_run_over_a_lossy_network_ends_as_an_undisturbed_one(
    connect: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    profile: str,
) -> None:
    monkeypatch.setattr("tinkex.recovery.decisions._FIRST_PAUSE", 0.01)

    def train(base_url: str, begin: Callable[[], None]) -> dict[int, list[Any]]:
        config = Config(
            base_url=base_url,
            api_key="tml-test",
            dialect=profile,
            chunk_limits=ChunkLimits(max_items=2),
            retry=RetrySettings(base_delay=0.01, max_delay=0.02),
            poll=PollSettings(min_interval=0.01, max_interval=0.01),
        )
        service, results = connect(base_url, config=config), dict[int, list[Any]]()
        trainer = service.create_lora_training_client("fake/base", rank=4, seed=1)
        policy = RecoveryPolicy(save_every_steps=2, give_up_after=100)
        run = service.create_recoverable_run(trainer, policy)
        begin()
        for step in steps_of(run, STEPS):
            try:
                results[step] = do(run.trainer, step)
                if step == STEPS - 1:
                    run.trainer.save_state(f"end-{run.recoveries}").result()
            except TinkexError as error:
                run.recover(error)
        return results

    quiet, loud = tmp_path / "quiet", tmp_path / "loud"
    with serve("fake/base", engine="fake", profile=profile, data_dir=quiet, hold=0.2) as server:
        expected = train(server.base_url, lambda: None)
    with (
        serve("fake/base", engine="fake", profile=profile, data_dir=loud, hold=0.2) as server,
        faulty(server.base_url, lossy := Lossy()) as proxy,
    ):
        assert train(proxy.base_url, lambda: setattr(lossy, "seed", f"{profile} 1")) == expected
    assert weights_of(loud) == weights_of(quiet)

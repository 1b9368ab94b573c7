"""The recipes on other servers: they learn there, or are refused before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import frozen

from tests.client.recipes.conftest import COLORS
from tinkex import Config, ServiceClient, UnsupportedByServer, events
from tinkex.local import serve
from tinkex.recipes import (
    DistillConfig,
    DpoConfig,
    Result,
    RlConfig,
    SftConfig,
    TrainConfig,
    train,
)
from tinkex_server.engine.interface import Engine

REWARDS = str(Path(__file__).parent / "rewards.py")
PAIRS = [
    {"prompt": row["prompt"], "chosen": " yes", "rejected": row["completion"]} for row in COLORS
]
REFUSED: Mapping[tuple[str, str], str] = {
    ("twinkle", "distill"): "twinkle computes no logprobs of a prompt",
    ("xorl", "rl"): "xorl has no sample",
    ("xorl", "distill"): "xorl has no sample",
}
"""The recipes that a server cannot run, with the reason."""
Write = Callable[..., str]


@frozen
class Place:
    """A server that imitates another one, and a client of it."""

    profile: str
    service: ServiceClient


@pytest.fixture(scope="module", params=["verl", "hatchery", "twinkle", "xorl"])
def place(request: pytest.FixtureRequest, torch_engine: Engine) -> Iterator[Place]:
    """A server for JSON alone, one that resembles the contract, and two that lack something."""
    with serve(engine=torch_engine, profile=request.param, hold=0.5) as server:
        settings = Config(base_url=server.base_url, api_key="tml-test", dialect=request.param)
        with ServiceClient(config=settings) as service:
            yield Place(request.param, service)


@pytest.fixture
def applied() -> Iterator[list[str]]:
    """The calls of optim_step that were made."""
    calls: list[str] = []

    def note(event: events.Event) -> None:
        assert isinstance(event, events.TrainingStep)
        if event.operation == "optim_step":
            calls.append(event.operation)

    events.attach(note, ["training.step"])
    yield calls
    events.detach(note)


def config(recipe: str, data: Write, out: Path, teacher: str | None) -> TrainConfig:
    settings: dict[str, Any] = {"rank": 4, "schedule": "constant", "out": str(out), "steps": 4}
    if recipe == "sft":
        return SftConfig(data=data(*COLORS), batch_size=3, **settings)
    if recipe == "dpo":
        return DpoConfig(data=data(*PAIRS), batch_size=3, **settings)
    if recipe == "rl":
        prompts = data({"prompt": "a = "})
        # faster, and all answers of a group would have one reward, and their step would be skipped
        more = {"batch_size": 1, "group_size": 96, "max_tokens": 3, "learning_rate": 0.005}
        return RlConfig(data=prompts, reward=f"{REWARDS}:vowels", **more, **settings)
    more = {"batch_size": 3, "group_size": 16, "max_tokens": 4}
    return DistillConfig(data=data(*COLORS), teacher=str(teacher), **more, **settings)


def teacher_on(place: Place, data: Write, out: Path) -> str | None:
    """Trains a teacher on the server; returns its weights, as this server samples from them."""
    settings = SftConfig(data=data(*COLORS), steps=8, batch_size=3, rank=8, out=str(out))
    saved = train(settings, place.service).state
    return saved.path if place.profile == "hatchery" else saved.sampler_path


def has_learned(result: Result) -> bool:
    """Returns whether the second half of a run is clearly better than its first step."""
    values = [step[result.goal.metric] for step in result.metrics]
    gain = float(np.mean(values[2:])) - values[0]
    return (-gain if result.goal.lower_is_better else gain) > LEAST_GAIN[result.recipe]


LEAST_GAIN = {"sft": 1.0, "rl": 0.15, "dpo": 0.5, "distill": 0.1}
"""The least gain of each recipe. Twinkle ignores seeds: its gain in rl is about 0.37, and from run
to run has a standard deviation of 0.035."""


@pytest.mark.parametrize("recipe", ["sft", "rl", "dpo", "distill"])
def test_a_recipe_learns_or_is_refused_before_it_trains(
    place: Place, recipe: str, data: Write, tmp_path: Path, applied: list[str]
) -> None:
    teacher = teacher_on(place, data, tmp_path / "teacher") if recipe == "distill" else None
    applied.clear()
    settings = config(recipe, data, tmp_path / "run", teacher)
    refusal = REFUSED.get((place.profile, recipe))
    if refusal is None:
        result = train(settings, place.service)
        assert has_learned(result), result.metrics
        assert len(applied) == 4
        return
    with pytest.raises(UnsupportedByServer, match=refusal) as error:
        train(settings, place.service)
    assert error.value.advice
    assert applied == []
    metrics = tmp_path / "run" / "metrics.jsonl"
    assert not metrics.exists() or metrics.read_text() == ""

"""The purpose of each recipe: losses fall, rewards and margins rise, and answers are right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.client.recipes.conftest import COLORS
from tinkex import InvalidInputError, ServiceClient
from tinkex.recipes import (
    Result,
    RlConfig,
    SftConfig,
    evaluate,
    exact_match,
    train,
)
from tinkex.recipes.rl import group_relative

REWARDS = str(Path(__file__).parent / "rewards.py")
Write = Callable[..., str]


def curve(result: Result, name: str) -> list[float]:
    return [step[name] for step in result.metrics if name in step]


def test_sft_learns_the_answers(service: ServiceClient, colors_run: Result) -> None:
    loss, held_out = curve(colors_run, "loss"), curve(colors_run, "eval_loss")
    assert loss[0] > 3
    assert loss[-1] < 0.1
    assert len(held_out) == 5
    assert held_out[-1] == min(held_out) < 0.1
    path = colors_run.state.sampler_path
    assert path is not None
    data = colors_run.folder.run()["config"]["data"]
    found = evaluate(service, path, data, scorer=exact_match, max_tokens=8)
    assert found.score == 1.0
    assert found.loss == pytest.approx(held_out[-1], abs=1e-3)
    assert found.loss_tokens == sum(len(row["completion"]) + 1 for row in COLORS)
    # the state of training is the same model
    state = evaluate(service, str(colors_run.state.path), data)
    assert state.loss == pytest.approx(found.loss, abs=1e-4)
    assert state.score is None


def test_the_state_before_is_deleted_when_the_next_one_is_saved(
    service: ServiceClient, data: Write, tmp_path: Path
) -> None:
    config = SftConfig(
        data=data(*COLORS), steps=4, save_every=2, batch_size=1, rank=4, out=str(tmp_path / "run")
    )
    result = train(config, service)
    rest = service.create_rest_client()
    run = str(result.state.path).split("/")[2]
    kept = {each.tinker_path for each in rest.list_checkpoints(run).checkpoints}
    assert kept == {result.state.path, result.state.sampler_path}


def test_rl_raises_the_reward_alike_with_each_loss(
    service: ServiceClient, data: Write, tmp_path: Path
) -> None:
    """The three losses have the same gradient on samples of the model itself, that of the expected
    reward; so the three runs go the same way.
    """
    path = data({"prompt": "a = "})
    curves = []
    for loss in ("importance_sampling", "ppo", "cispo"):
        config = RlConfig(
            data=path,
            reward=f"{REWARDS}:vowels",
            loss=loss,
            steps=4,
            batch_size=1,
            group_size=24,
            max_tokens=3,
            rank=4,
            schedule="constant",
            eval_data=path if loss == "ppo" else None,
            eval_every=4,
            out=str(tmp_path / loss),
        )
        curves.append(train(config, service))
    for result in curves:
        reward = curve(result, "reward")
        assert np.mean(reward[-2:]) > reward[0] + 0.15
        assert reward[1] == pytest.approx(curve(curves[0], "reward")[1], abs=0.02)
    assert curve(curves[1], "eval_reward")[0] > 0.2


def test_a_group_of_equal_rewards_teaches_nothing(
    service: ServiceClient, data: Write, tmp_path: Path
) -> None:
    assert not group_relative(np.full(7, 0.1, np.float32)).any()
    assert group_relative(np.array([1, 0, 0, 1], np.float32)).tolist() == [0.5, -0.5, -0.5, 0.5]
    config = RlConfig(
        data=data({"prompt": "a"}),
        reward=f"{REWARDS}:same",
        steps=1,
        batch_size=1,
        group_size=2,
        max_tokens=2,
        rank=4,
        out=str(tmp_path / "run"),
    )
    (step,) = train(config, service).metrics
    assert step["groups_without_signal"] == 1


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        ("fails", r"data\.jsonl:1: .*ZeroDivisionError: division by zero, at .*rewards\.py:\d+"),
        ("takes_one", r"data\.jsonl:1: .*takes 1 positional argument but 2 were given$"),
        ("nothing", r"data\.jsonl:1: .*returned None .*must return a number"),
        ("waits", r"is a coroutine function\n.*def, not async def"),
    ],
)
def test_an_error_of_the_reward_names_the_row_and_the_line(
    service: ServiceClient, data: Write, tmp_path: Path, function: str, problem: str
) -> None:
    path = data({"prompt": "a"})
    config = RlConfig(
        data=path,
        reward=f"{REWARDS}:{function}",
        batch_size=1,
        group_size=2,
        max_tokens=2,
        rank=4,
        out=str(tmp_path / "run"),
    )
    with pytest.raises(InvalidInputError, match=problem):
        train(config, service)

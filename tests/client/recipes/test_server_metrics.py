"""The metrics of a recipe on the page of its run, over real sockets."""

from __future__ import annotations

import html
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.client.recipes.conftest import COLORS
from tests.support.faulty_proxy import Instead, faulty
from tinkex import Config, ServiceClient, UnsupportedByServer
from tinkex.local import Server, serve
from tinkex.recipes import DistillConfig, DpoConfig, Result, RlConfig, SftConfig, resume, train
from tinkex_server.engine.interface import Engine

REWARDS = str(Path(__file__).parent / "rewards.py")
Write = Callable[..., str]


def run_of(result: Result) -> str:
    return str(result.state.path).split("/")[2]


def steps_of(base_url: str, run: str) -> list[dict[str, Any]]:
    """Returns the steps as flat mappings of numbers."""
    listed = httpx.get(f"{base_url}/api/v1/training_runs/{run}/steps").json()["steps"]
    return [{**step, **step.pop("metrics")} for step in listed]


def same_values(sent: Mapping[str, float], kept: Mapping[str, float], *names: str) -> None:
    assert {name: kept[name] for name in names} == pytest.approx(
        {name: sent[name] for name in names}
    )


def rl_config(data: Write, out: Path, reward: str, steps: int = 3) -> RlConfig:
    path = data({"prompt": "a = "})
    return RlConfig(
        data=path,
        eval_data=path,
        eval_every=2,
        reward=f"{REWARDS}:{reward}",
        steps=steps,
        batch_size=1,
        group_size=8,
        max_tokens=3,
        rank=4,
        out=str(out),
    )


def test_rl_shows_its_reward_and_evaluations(
    service: ServiceClient, torch_server: Server, data: Write, tmp_path: Path
) -> None:
    result = train(rl_config(data, tmp_path / "run", "vowels"), service)
    run = run_of(result)
    kept = steps_of(torch_server.base_url, run)
    assert [step["step"] for step in kept] == [1, 2, 3]
    for sent, there in zip(result.metrics, kept, strict=True):
        same_values(sent, there, "reward", "entropy", "answer_tokens", "groups_without_signal")
        assert ("eval_reward" in there) == ("eval_reward" in sent)
    same_values(result.metrics[1], kept[1], "eval_reward")
    page = httpx.get(f"{torch_server.base_url}/runs/{run}?metric=reward").text
    assert '<h2 id="chart-title">reward</h2>' in page
    assert "at step 3" in page


def test_a_step_with_nothing_to_learn_has_its_reward_too(
    service: ServiceClient, torch_server: Server, data: Write, tmp_path: Path
) -> None:
    """Else all later values would be at the wrong steps."""
    result = train(rl_config(data, tmp_path / "run", "same", steps=2), service)
    kept = steps_of(torch_server.base_url, run_of(result))
    assert [(step["step"], step["reward"]) for step in kept] == [
        (1, pytest.approx(0.1)),
        (2, pytest.approx(0.1)),
    ]
    assert all("loss" not in step for step in kept)


def test_dpo_shows_its_margin_and_its_own_loss(
    service: ServiceClient, torch_server: Server, data: Write, tmp_path: Path
) -> None:
    rows = [{"prompt": row["prompt"], "chosen": " yes", "rejected": " no"} for row in COLORS]
    config = DpoConfig(data=data(*rows), steps=2, batch_size=3, rank=4, out=str(tmp_path / "run"))
    result = train(config, service)
    kept = steps_of(torch_server.base_url, run_of(result))
    for sent, there in zip(result.metrics, kept, strict=True):
        same_values(sent, there, "margin", "accuracy")
        assert there["dpo_loss"] == pytest.approx(sent["loss"])


def test_distillation_shows_its_divergence(
    service: ServiceClient, torch_server: Server, data: Write, tmp_path: Path
) -> None:
    config = DistillConfig(
        data=data(*COLORS),
        teacher="tinkex/tiny",
        steps=1,
        batch_size=1,
        group_size=2,
        max_tokens=3,
        rank=4,
        out=str(tmp_path / "run"),
    )
    result = train(config, service)
    [there] = steps_of(torch_server.base_url, run_of(result))
    same_values(result.metrics[0], there, "kl")


def test_a_resumed_run_counts_the_steps_of_its_own_model(
    service: ServiceClient, torch_server: Server, data: Write, tmp_path: Path
) -> None:
    path = data(*COLORS)
    config = SftConfig(
        data=path, eval_data=path, eval_every=1, steps=2, rank=4, out=str(tmp_path / "run")
    )
    first = train(config, service)
    kept = steps_of(torch_server.base_url, run_of(first))
    assert kept[0]["loss"] == pytest.approx(first.metrics[0]["loss"], rel=1e-4)
    second = resume(tmp_path / "run", service, {"steps": 3})
    assert run_of(second) != run_of(first)
    [there] = steps_of(torch_server.base_url, run_of(second))
    same_values(second.metrics[2], there, "eval_loss")
    page = httpx.get(f"{torch_server.base_url}/runs/{run_of(second)}?metric=eval_loss").text
    values = json.loads(html.unescape(re.findall(r'data-points="([^"]*)"', page)[0]))
    assert [step for step, *_ in values] == [1, 2, 3]
    name = f"run ({run_of(first)})"
    assert f'<a href="/runs/{run_of(first)}">{name}</a>, from checkpoint' in page
    assert f"Up to step 2: {name}." in page


@pytest.mark.parametrize("status", [400, 404])
def test_a_failure_is_logged_once_and_training_goes_on(
    torch_server: Server,
    data: Write,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    status: int,
) -> None:
    """A server that turns out to keep no metrics has not failed, and is not asked again."""
    with (
        faulty(torch_server.base_url) as proxy,
        ServiceClient(base_url=proxy.base_url, api_key="tml-test") as service,
        caplog.at_level(logging.WARNING, "tinkex"),
    ):
        proxy.faults.append(("metrics", Instead(status, b'{"detail": "no room"}')))
        result = train(rl_config(data, tmp_path / "run", "vowels"), service)
    assert result.state.step == 3
    assert proxy.count("metrics") == 1
    said = [each.getMessage() for each in caplog.records if "page of the run" in each.message]
    assert len(said) == (status == 400)
    assert all("from step 1 on" in each and "no room" in each for each in said)


@pytest.fixture
def unknown_server(torch_engine: Engine) -> Iterator[Server]:
    with serve(engine=torch_engine, profile="verl") as server:
        yield server


def test_a_server_that_is_not_known_to_keep_metrics_is_not_asked(
    unknown_server: Server, data: Write, tmp_path: Path
) -> None:
    with (
        faulty(unknown_server.base_url) as proxy,
        ServiceClient(base_url=proxy.base_url, api_key="tml-test") as service,
    ):
        assert not service.server.keeps_metrics
        config = SftConfig(data=data(*COLORS), steps=1, rank=4, out=str(tmp_path / "run"))
        trained = train(config, service)
        assert trained.state.step == 1
        trainer = service.create_lora_training_client("tinkex/tiny", rank=4)
        with pytest.raises(UnsupportedByServer, match="not known to keep metrics") as error:
            trainer.add_metrics({"reward": 1.0})
        assert "keeps_metrics=True" in str(error.value)
        assert proxy.count("metrics") == 0


def test_a_server_that_turns_out_to_keep_none_is_asked_once(torch_server: Server) -> None:
    with faulty(torch_server.base_url) as proxy:
        with ServiceClient(config=Config(base_url=proxy.base_url, api_key="tml-test")) as service:
            trainer = service.create_lora_training_client("tinkex/tiny", rank=4)
            proxy.faults.append(("metrics", Instead(404, b'{"detail": "no such route"}')))
            for _ in range(2):
                with pytest.raises(UnsupportedByServer):
                    trainer.add_metrics({"reward": 1.0})
            assert not service.server.keeps_metrics
        assert proxy.count("metrics") == 1

"""The metrics that a run's checkpoints carry, and the choice of the best by them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click.testing
import pytest

from tests.client.recipes.conftest import COLORS
from tinkex import ServiceClient
from tinkex.cli import main
from tinkex.local import serve
from tinkex.recipes import SftConfig, train
from tinkex.recipes.saves import metadata_of

Write = Callable[..., str]


def overfitting(data: Write, out: Path) -> SftConfig:
    """Returns a run that first learns something of the held-out row, and then forgets it."""
    return SftConfig(
        data=data(*COLORS),
        eval_data=data({"prompt": "red", "completion": " go"}, name="eval.jsonl"),
        steps=10,
        batch_size=3,
        rank=4,
        learning_rate=2e-2,
        schedule="constant",
        save_every=2,
        eval_every=2,
        keep_all=True,
        out=str(out),
    )


@pytest.mark.parametrize(("options", "choose"), [([], min), (["--highest"], max)])
def test_the_best_checkpoint_of_a_run_can_be_kept(
    service: ServiceClient,
    data: Write,
    tmp_path: Path,
    options: list[str],
    choose: Callable[..., float],
) -> None:
    result = train(overfitting(data, tmp_path / "run"), service)
    held_out = {
        int(step["step"]): step["eval_loss"] for step in result.metrics if "eval_loss" in step
    }
    assert list(held_out) == [2, 4, 6, 8, 10]
    best = choose(held_out, key=held_out.__getitem__)
    assert best != 10  # the newest is not the best by chance
    rest = service.create_rest_client()
    run = str(result.state.path).split("/")[2]
    saved = {each.checkpoint_id: each for each in rest.list_checkpoints(run).checkpoints}
    assert len(saved) == 6
    for step, loss in held_out.items():
        facts = saved[f"weights/step-{step:06d}"].user_metadata
        assert facts is not None
        assert float(facts["eval_loss"]) == pytest.approx(loss, rel=1e-8)
        assert (facts["step"], facts["eval_step"]) == (str(step), str(step))
    line = ["checkpoint", "delete", "--run", run, "--type=weights", "--keep-best=1", "--yes"]
    server = ["--metric=eval_loss", "--base-url", str(service.config.base_url)]
    done = click.testing.CliRunner(env={"TINKER_API_KEY": "tml-test"}).invoke(
        main, [*line, *server, *options]
    )
    assert done.exit_code == 0, done.output
    kept = {each.checkpoint_id for each in rest.list_checkpoints(run).checkpoints}
    assert kept == {f"weights/step-{best:06d}", "sampler_weights/final"}


def test_metadata_are_the_last_step_and_the_last_evaluation() -> None:
    history = [
        {"step": 1.0, "loss": 3.0, "time": 1e9, "eval_loss": 2.0, "eval_score": 0.5},
        {"step": 2, "loss": 2.5, "time": 1e9, "tokens_per_second": 10.0},
    ]
    assert metadata_of(history) == {
        "step": "2",
        "loss": "2.5",
        "eval_loss": "2",
        "eval_score": "0.5",
        "eval_step": "1",
    }
    assert metadata_of([]) == {}


def test_a_server_without_metadata_gets_the_saves_without(
    data: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        serve(["tinkex/tiny"], engine="fake", profile="miles") as server,
        ServiceClient(base_url=server.base_url, api_key="tml-test") as service,
    ):
        config = SftConfig(
            data=data(*COLORS), steps=4, save_every=2, rank=4, out=str(tmp_path / "run")
        )
        result = train(config, service)
    assert result.state.step == 4
    assert result.state.sampler_path is not None
    warnings = [record.message for record in caplog.records if "metadata" in record.message]
    assert len(warnings) == 1
    assert "--keep-best cannot" in warnings[0]

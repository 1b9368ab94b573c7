"""`tinkex run watch`: files of metrics that grow, and runs on the embedded server."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import click.testing
import pytest

from tests.support.answering_server import NO_ROUTE, answering, as_json
from tests.support.programs import running
from tinkex import AdamParams, Datum, ModelInput, ServiceClient
from tinkex.cli import main
from tinkex.cli.curve import draw
from tinkex.local import Server, serve
from tinkex.watching.files import MetricsReader, read_metrics

_DATUM = Datum(ModelInput.from_ints([1, 2, 3]), {"target_tokens": [2, 3, 4]})


def watch(*options: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(main, ["run", "watch", *options])


def write(folder: Path, *rows: object) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in rows)


def test_a_reader_takes_whole_lines_once(tmp_path: Path) -> None:
    write(tmp_path, {"step": 1, "loss": 2.5, "note": "text", "done": True}, ["no", "object"])
    reader = MetricsReader(tmp_path / "metrics.jsonl")
    assert reader.new() == [{"step": 1, "loss": 2.5}]
    assert (reader.new(), reader.skipped) == ([], 1)
    with reader.path.open("a") as file:
        file.write('{"step": 2, "lo')
        file.flush()
        assert reader.new() == []
        file.write('ss": NaN}\n')
    [second] = reader.new()
    assert math.isnan(second["loss"])
    reader.path.write_text('{"step": 1, "loss": 1.0}\n')  # another run in the same place
    assert reader.new() == read_metrics(tmp_path) == [{"step": 1, "loss": 1.0}]


def test_in_a_pipe_each_step_is_a_line(tmp_path: Path) -> None:
    write(tmp_path, {"step": 1, "loss": 2.5, "reward": 0}, {"step": 2, "loss": 1.25, "reward": 1})
    lines = ["step=1 loss=2.5 reward=0", "step=2 loss=1.25 reward=1"]
    assert watch(str(tmp_path), "--no-follow").stdout.splitlines() == lines
    chosen = watch(str(tmp_path), "--no-follow", "--metric=reward", "--json").stdout.splitlines()
    assert [json.loads(line) for line in chosen] == [
        {"step": 1, "reward": 0},
        {"step": 2, "reward": 1},
    ]


def test_it_follows_a_file_that_is_not_there_yet_until_ctrl_c(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tinkex", "run", "watch", str(tmp_path)]
    with running(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        write(tmp_path, {"step": 1, "loss": 2.5})
        assert process.stdout.readline() == "step=1 loss=2.5\n"
        write(tmp_path, {"step": 2, "loss": 2.25})
        assert process.stdout.readline() == "step=2 loss=2.25\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130


def test_on_a_terminal_it_draws_a_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKEX_FORCE_TTY", "60")
    write(tmp_path, *({"step": step, "loss": 4.0 - step / 50} for step in range(1, 101)))
    shown = watch(str(tmp_path), "--no-follow").stdout
    assert f"{tmp_path.name}  step 100  loss 2" in shown
    assert "      3.98 ⠉" in shown
    assert "         2 " in shown
    assert max(len(line) for line in shown.splitlines() if "⠒" in line) <= 60


def test_what_does_not_exist_is_said(tmp_path: Path) -> None:
    done = watch(str(tmp_path / "nowhere" / "run"))
    assert (done.exit_code, "there is no file or folder" in done.stderr) == (3, True)
    assert watch(str(tmp_path), "--no-follow").exit_code == 1


def train(service: ServiceClient, steps: int) -> str:
    trainer = service.create_lora_training_client("tinkex/tiny")
    for _ in range(steps):
        trainer.forward_backward([_DATUM], "cross_entropy")
        trainer.optim_step(AdamParams(learning_rate=1e-3)).result()
    return trainer.model_id


def test_a_run_on_the_server_is_followed_with_its_key() -> None:
    with (
        serve(engine="fake", api_key=["tml-ours", "tml-theirs"]) as server,
        ServiceClient(base_url=server.base_url, api_key="tml-ours") as service,
    ):
        run_id = train(service, 3)
        environment = {"TINKER_BASE_URL": server.base_url, "TINKER_API_KEY": "tml-ours"}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            lines = watch(run_id, "--no-follow", "--json").stdout.splitlines()
            patch.setenv("TINKER_API_KEY", "tml-theirs")
            hidden = watch(run_id, "--no-follow")
            patch.setenv("TINKER_API_KEY", "tml-wrong")
            refused = watch(run_id, "--no-follow")
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    assert all(json.loads(line)["loss"] > 0 for line in lines)
    assert (hidden.exit_code, refused.exit_code) == (3, 4)
    assert f"the server has no run {run_id}" in hidden.stderr


def test_a_run_that_ends_ends_the_command(server: Server) -> None:
    with ServiceClient(base_url=server.base_url, api_key="tml-test") as service:
        trainer = service.create_lora_training_client("fake/base")
        trainer.forward_backward([_DATUM], "cross_entropy")
        trainer.optim_step(AdamParams(learning_rate=1e-3)).result()
        trainer.unload_model().result()
        done = watch(trainer.model_id, f"--base-url={server.base_url}")
    assert done.exit_code == 0
    assert done.stdout.startswith("step=1 loss=")
    assert done.stderr.endswith("The run has ended: unloaded.\n")


def test_a_server_that_does_not_tell_says_what_to_watch_instead() -> None:
    with answering(lambda call: NO_ROUTE) as there:
        done = watch("a-run", f"--base-url={there.base_url}")
    assert done.exit_code == 1
    assert "does not tell the steps of a run" in done.stderr
    assert "Watch the folder of the run" in done.stderr


def test_any_metric_of_a_server_is_shown_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [
        {
            "step": n,
            "at": "2026-01-01T00:00:00Z",
            "loss": 2.0 / n,
            "metrics": {"grad_norm": 0.5 * n},
        }
        for n in (1, 2)
    ]
    told = as_json({"state": "unloaded", "steps": steps}), as_json({"state": "ready", "steps": []})
    with answering(lambda call: told[int(call.query["after"]) >= 2]) as there:
        url = f"--base-url={there.base_url}"
        chosen = watch("a-run", "--no-follow", "--metric=grad_norm", url)
        unknown = watch("a-run", "--no-follow", "--metric=grad", url)
        monkeypatch.setenv("TINKEX_FORCE_TTY", "60")
        drawn = watch("a-run", "--no-follow", "--metric=grad_norm", url)
    assert chosen.stdout.splitlines() == ["step=1 grad_norm=0.5", "step=2 grad_norm=1"]
    assert unknown.exit_code == 3
    assert "no step has the metric grad; there are: loss, grad_norm" in unknown.stderr
    assert "\ngrad_norm" in drawn.stdout


def test_a_metric_that_comes_later_is_waited_for(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tinkex", "run", "watch", str(tmp_path), "--metric=eval_loss"]
    write(tmp_path, {"step": 1, "loss": 2.5})
    with running(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        assert process.stderr.readline() == "No step has eval_loss yet. There are: loss.\n"
        write(tmp_path, {"step": 2, "loss": 2.25, "eval_loss": 3.5})
        assert process.stdout.readline() == "step=2 eval_loss=3.5\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130


def test_a_curve_has_its_highest_value_on_top_and_joins_its_steps() -> None:
    assert draw([0, 1, 2, 3], 2, 1) == ["⡠⠊"]
    assert draw([1, 0], 1, 2) == ["⢱", "⢸"]
    assert draw([], 3, 1) == ["   "]
    assert draw([5.0, math.nan, 5.0], 2, 1) == ["⠄⠄"]
    assert len(draw(list(range(1000)), 20, 5)[0]) == 20

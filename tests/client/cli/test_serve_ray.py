"""The options of `tinkex serve` for a Ray cluster, where no cluster is needed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click.testing
import pytest

from tinkex.cli import main
from tinkex.local import RaySettings, VllmSettings
from tinkex_server.engine.factory import create_engine
from tinkex_server.engine.interface import InvalidRequest


def output_of(*arguments: str) -> tuple[int, str]:
    result = click.testing.CliRunner().invoke(main, ["serve", *arguments])
    return result.exit_code, result.output


def test_an_option_of_a_cluster_needs_one(tmp_path: Path) -> None:
    code, output = output_of(f"--data-dir={tmp_path}", "--train-replicas=2")
    assert code == 2
    assert "--train-replicas needs --ray" in output


def test_without_ray_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    code, output = output_of(f"--data-dir={tmp_path}", "--port=0", "--engine=fake", "--ray")
    assert code == 1
    assert "an engine on Ray needs the package ray: run `pip install 'tinkex[ray]'`" in output


def test_numbers_that_no_cluster_can_have_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ({"samplers": 0}, {"train_cpus": 0}, {"train_gpus": -1}, {"train_replicas": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            RaySettings(**wrong)
    monkeypatch.setattr("tinkex_server.engine.factory.require_ray", lambda: None)
    with pytest.raises(InvalidRequest, match="use --engine torch with --train-replicas"):
        create_engine("fake", ["fake/base"], ray=RaySettings(train_replicas=2))


@pytest.mark.parametrize(
    ("ray", "vllm", "words"),
    [
        (
            {"samplers": 3},
            {"urls": ["http://localhost:1"]},
            "--samplers 3 .* --vllm-url names vLLMs that you run: give --vllm-python",
        ),
        ({}, {"python": sys.executable, "adapters": Path("/tmp")}, "--vllm-adapters is for vLLMs"),
        ({}, {"python": sys.executable, "args": ["--port=80"]}, "--port, which two vLLMs on one"),
    ],
)
def test_choices_that_exclude_each_other_are_refused(
    ray: dict[str, Any], vllm: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinkex_server.engine.factory.require_ray", lambda: None)
    with pytest.raises(InvalidRequest, match=words):
        create_engine("torch", ["tinkex/tiny"], ray=RaySettings(**ray), vllm=VllmSettings(**vllm))

"""A server that really trains, data of a few words, and a place for runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tinkex import ServiceClient
from tinkex.local import Server
from tinkex.recipes import Result, SftConfig, train

COLORS = [
    {"prompt": "red", "completion": " stop"},
    {"prompt": "green", "completion": " go"},
    {"prompt": "blue", "completion": " ask"},
]


@pytest.fixture(scope="session")
def service(torch_server: Server) -> Iterator[ServiceClient]:
    with ServiceClient(base_url=torch_server.base_url, api_key="tml-test") as service:
        yield service


@pytest.fixture
def data(tmp_path: Path) -> Callable[..., str]:
    """Writes rows to a file, and returns its path."""

    def write(*rows: Mapping[str, Any], name: str = "data.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


@pytest.fixture(scope="session")
def colors_run(service: ServiceClient, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run that has learned the answers to three words."""
    folder = tmp_path_factory.mktemp("colors")
    path = folder / "colors.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in COLORS))
    config = SftConfig(
        data=str(path),
        eval_data=str(path),
        epochs=25,
        batch_size=3,
        rank=8,
        out=str(folder / "run"),
    )
    return train(config, service)

"""A server with something to manage, for the tests of the command line."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import frozen

import tinkex.local
from tinkex import ServiceClient
from tinkex.local import Server

_numbers = itertools.count()


@frozen
class Things:
    """A session with a training run and its checkpoints, on a server."""

    base_url: str
    session: str
    run: str
    path: str
    sampler_path: str

    def filled(self, text: str, folder: Path) -> str:
        """Returns a command line of an example with the placeholders replaced."""
        values = {
            "SESSION": self.session,
            "RUN": self.run,
            "PATH": self.path,
            "PROJECT": "project-1",
            "OWNER/NAME": "ada/poems",
            "FILE": str(folder / "file"),
        }
        return " ".join(values.get(word, word) for word in text.split())


@pytest.fixture(scope="session")
def fake_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose engine answers at once."""
    folder = tmp_path_factory.mktemp("cli_server")
    with tinkex.local.serve(["tinkex/tiny"], engine="fake", data_dir=folder) as server:
        yield server


def things_on(base_url: str) -> Things:
    """Makes a session with a run, a state and weights for sampling."""
    number = next(_numbers)
    with ServiceClient(base_url=base_url, display_name=f"session {number}") as service:
        trainer = service.create_lora_training_client("tinkex/tiny", rank=4)
        path = trainer.save_state("state", user_metadata={"loss": "0.5"}).result().path
        sampler = trainer.save_weights_for_sampler("sampler").result().path
        rest = service.create_rest_client()
        session = rest.list_sessions(limit=1).sessions[0]
    assert path is not None
    assert sampler is not None
    return Things(base_url, session, trainer.model_id, path, sampler)


@pytest.fixture
def things(fake_server: Server, monkeypatch: pytest.MonkeyPatch) -> Things:
    """New things on the server, which the environment names."""
    made = things_on(fake_server.base_url)
    monkeypatch.setenv("TINKER_BASE_URL", made.base_url)
    return made


@pytest.fixture
def nowhere() -> str:
    """The address of a server that has ended."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"

"""A server that lacks a call is told as that, in whichever words it says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.answering_server import Answer, answering, as_json
from tinkex import Config, Dialect, RestClient, ServiceClient, UnsupportedByServer

PATH = "tinker://S1:train:0/weights/0001"
LACKS = {
    "404": as_json({"detail": "Not Found"}, 404),
    "404 of a web server": Answer(404, b"404 page not found\n", {"Content-Type": "text/plain"}),
    "405": as_json({"detail": "Method Not Allowed"}, 405),
    "501": as_json({"error": "Not Implemented"}, 501),
}
CALLS: dict[str, Callable[[RestClient, Path], Any]] = {
    "publish": lambda rest, _: rest.publish_checkpoint_from_tinker_path(PATH),
    "unpublish": lambda rest, _: rest.unpublish_checkpoint_from_tinker_path(PATH),
    "ttl": lambda rest, _: rest.set_checkpoint_ttl_from_tinker_path(PATH, 60),
    "delete": lambda rest, _: rest.delete_checkpoint_from_tinker_path(PATH),
    "download": lambda rest, folder: rest.download_checkpoint(PATH, output_dir=folder),
    "archive url": lambda rest, _: rest.get_checkpoint_archive_url_from_tinker_path(PATH),
    "list": lambda rest, _: rest.list_user_checkpoints(),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("words", LACKS)
def test_a_call_that_a_server_lacks_is_not_supported(tmp_path: Path, call: str, words: str) -> None:
    with answering(lambda _: LACKS[words]) as server:
        rest = RestClient(Config(base_url=server.base_url, api_key="tml-x", dialect=Dialect()))
        for _ in range(2):
            with pytest.raises(UnsupportedByServer):
                CALLS[call](rest, tmp_path)
        assert len(server.calls) == 1, "it is known from then on"


@pytest.mark.parametrize("words", LACKS)
def test_a_server_that_trains_nothing_cannot_be_probed(words: str) -> None:
    def answer(call: Any) -> Answer:
        return (
            as_json({"session_id": "s", "type": "create_session"})
            if call.path.endswith("/create_session")
            else LACKS[words]
        )

    with (
        answering(answer) as server,
        ServiceClient(
            config=Config(base_url=server.base_url, api_key="tml-x", dialect=Dialect())
        ) as service,
        pytest.raises(UnsupportedByServer),
    ):
        service.probe_server("base")

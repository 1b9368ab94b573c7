"""Calls that lie elsewhere: what goes there, with which key, and what is told of those that do
not.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tinkex_api.api.server import get_client_config
from tinkex_api.models import ClientConfigRequest

from tests.support.answering_server import Answer, Answering, Call, answering, as_json
from tinkex import APIStatusError, Config
from tinkex.transport import port
from tinkex.transport.redirects import MAX_REDIRECTS, next_url
from tinkex.transport.transport import Transport

FLAGS = as_json({"parallel_fwdbwd_chunks": True})


def post(server: Answering) -> Any:
    """The answer to a call with a body."""

    async def main() -> Any:
        transport = Transport(Config(base_url=server.base_url, api_key="tml-secret"))
        try:
            return await transport.send(get_client_config.request(body=ClientConfigRequest("7")))
        finally:
            await transport.aclose()

    return asyncio.run(main())


@pytest.mark.parametrize("status", [307, 308])
def test_a_call_with_a_body_is_sent_again_within_the_server(status: int) -> None:
    def answer(call: Call) -> Answer:
        return (
            FLAGS
            if call.path.endswith("/")
            else Answer(status, headers={"Location": f"{call.path}/"})
        )

    with answering(answer) as server:
        assert post(server).parallel_fwdbwd_chunks is True
    first, second = server.calls
    assert (second.method, second.body, second.headers["x-api-key"]) == (
        "POST",
        first.body,
        "tml-secret",
    )
    assert first.headers["x-idempotency-key"] == second.headers["x-idempotency-key"]


def test_a_call_with_a_body_goes_to_no_other_server_and_the_error_says_where_it_is() -> None:
    with answering(lambda call: FLAGS) as elsewhere:
        there = f"{elsewhere.base_url}/api/v1/client/config"
        with (
            answering(lambda call: Answer(308, headers={"Location": there})) as server,
            pytest.raises(APIStatusError) as raised,
        ):
            post(server)
    assert there in str(raised.value)
    assert "base_url" in str(raised.value)
    assert elsewhere.calls == []


def test_redirects_that_go_in_a_circle_end() -> None:
    with (
        answering(lambda call: Answer(307, headers={"Location": call.path})) as server,
        pytest.raises(APIStatusError, match="307"),
    ):
        post(server)
    assert len(server.calls) == 1 + MAX_REDIRECTS


@pytest.mark.parametrize(
    ("method", "status", "location", "url"),
    [
        ("GET", 302, "/b?x=1", "http://server/b?x=1"),
        ("GET", 301, "https://other/b", "https://other/b"),
        ("GET", 302, "ftp://other/b", None),
        ("GET", 302, "http://other:port/", None),
        ("POST", 307, "b", "http://server/api/b"),
        ("POST", 302, "b", None),
        ("POST", 303, "b", None),
        ("POST", 307, "http://server.evil/b", None),
        ("PUT", 308, "//other/b", None),
        ("DELETE", 308, "/c", "http://server/c"),
    ],
)
def test_the_target_of_a_redirect_is_resolved(
    method: str, status: int, location: str, url: str | None
) -> None:
    answer = port.Answer(status, port.Headers([("location", location)]), url="http://server/api/a")
    assert next_url(method, answer, "http://server") == url

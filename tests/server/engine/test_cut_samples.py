"""A sample that ends before its max_tokens, since the context is full, is told of in the log, once
for a base model.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tinkex import SamplingParams, ServiceClient
from tinkex.local import Server, serve

ROOM = 4  # tokens that the context has beside the prompt


@pytest.fixture
def server() -> Iterator[Server]:
    with serve(engine="fake") as running:
        yield running


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "tinkex.local" and "was cut" in record.getMessage()
    ]


def long_prompt(service: ServiceClient) -> list[int]:
    [model] = service.get_server_capabilities().supported_models
    return [5] * ((model.max_context_length or 0) - ROOM)


@pytest.mark.parametrize("stream", [False, True])
def test_a_sample_cut_by_the_context_is_reported_once(
    server: Server, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING, "tinkex.local"),
        ServiceClient(server.base_url) as service,
    ):
        prompt = long_prompt(service)
        sampler = service.create_sampling_client(base_model="tinkex/tiny")
        for _ in range(2):
            params = SamplingParams(max_tokens=10)
            if stream:
                for _piece in sampler.sample_stream(prompt, params):
                    pass
            else:
                sampler.sample(prompt, 2, params).result()
    [words] = told(caplog)
    assert words.startswith(
        "a sample of tinkex/tiny was cut before its max_tokens of 10: together with its prompt of "
        f"{len(prompt)} tokens it fills the model's context of {len(prompt) + ROOM} tokens"
    )


def test_other_ends_of_a_sample_are_not_reported(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING, "tinkex.local"),
        ServiceClient(server.base_url) as service,
    ):
        prompt = long_prompt(service)
        sampler = service.create_sampling_client(base_model="tinkex/tiny")
        sampler.sample(prompt, 1, SamplingParams(max_tokens=ROOM)).result()
        sampler.sample(prompt, 1, SamplingParams()).result()
        sampler.sample([5, 6], 1, SamplingParams(max_tokens=10, stop=list(range(257)))).result()
    assert not told(caplog)

"""One whole job on the embedded server; scripts/try_server.py runs the same on any other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.whole_job import TWO_CHUNKS, Job, outcomes
from tinkex import Config, InvalidInputError, UnsupportedByServer
from tinkex.local import Server


@pytest.mark.slow
def test_every_step_does_what_is_asked_on_the_embedded_server(
    torch_server: Server, connect: Callable[..., Any]
) -> None:
    job = Job(
        connect(
            torch_server.base_url,
            config=Config(base_url=torch_server.base_url, chunk_limits=TWO_CHUNKS),
        )
    )
    went_otherwise = [outcome for outcome in outcomes(job) if outcome.kind != "ok"]
    assert not went_otherwise


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (
            UnsupportedByServer(
                "it cannot", server="one", operation="sample", advice="Ask another."
            ),
            "unsupported",
        ),
        (InvalidInputError("no"), "FAILED"),
    ],
)
def test_a_step_that_raises_is_reported_with_its_reason(error: Exception, kind: str) -> None:
    def raising(_job: Job) -> None:
        raise error

    (outcome,) = outcomes(Job(None), [raising])
    assert (outcome.step, outcome.kind) == ("raising", kind)
    assert str(error) in outcome.detail


def test_a_step_is_skipped_if_the_steps_it_needs_failed() -> None:
    def needing(job: Job) -> None:
        job.sampler.sample([1])

    (outcome,) = outcomes(Job(None), [needing])
    assert (outcome.kind, outcome.detail) == ("skipped", "there is no sampler")

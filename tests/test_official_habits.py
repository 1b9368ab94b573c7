"""What programs written for the official SDK do with our names: errors that they make and catch, clients as futures."""

from __future__ import annotations

import asyncio
import pickle

import httpx
import pytest

import tinkex
from tinkex import (
    APIError,
    APIStatusError,
    BadRequestError,
    Config,
    InvalidInputError,
    RateLimitError,
    ServiceClient,
    TinkexError,
    TrainingClient,
)
from tinkex.local import Server

ANSWER = httpx.Response(429, headers={"retry-after": "3"}, json={"detail": "slow down"})


def test_an_error_made_of_an_answer() -> None:
    for error in (
        RateLimitError("slow down", ANSWER, {"detail": "slow down"}),
        RateLimitError("slow down", response=ANSWER, body={"detail": "slow down"}),
    ):
        assert (error.status_code, error.body) == (429, {"detail": "slow down"})
        assert error.headers["retry-after"] == "3"
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), again.status_code, str(again)) == (RateLimitError, 429, "slow down")
    assert BadRequestError("no", status_code=400).status_code == 400
    with pytest.raises(TypeError, match="status_code"):
        APIStatusError("no")


@pytest.mark.parametrize(
    "name",
    [
        *("APIConnectionError", "APITimeoutError", "APIStatusError", "APIResponseValidationError"),
        *("BadRequestError", "AuthenticationError", "BillingError", "PermissionDeniedError", "NotFoundError"),
        *("ConflictError", "UnprocessableEntityError", "RateLimitError", "InternalServerError"),
    ],
)
def test_the_tree_of_errors_has_the_same_branch(name: str) -> None:
    assert issubclass(getattr(tinkex, name), APIError)
    assert issubclass(APIError, TinkexError)


def test_a_client_that_was_made_is_its_own_future(server: Server) -> None:
    with ServiceClient(base_url=server.base_url, api_key="tml-x") as service:
        trainer = service.create_lora_training_client("fake/base", 8)
        sampler = service.create_sampling_client(base_model="fake/base")
        assert trainer.result() is trainer
        assert sampler.result(timeout=5) is sampler

        async def awaited() -> TrainingClient:
            return await trainer

        assert asyncio.run(awaited()) is trainer


@pytest.mark.parametrize(
    ("given", "meant"), [({"team": "a"}, "user_metadata="), (Config(base_url="http://a", api_key="tml-x"), "config=")]
)
def test_another_thing_in_the_place_of_the_base_url(given: object, meant: str) -> None:
    with pytest.raises(InvalidInputError, match="base_url must be a text") as caught:
        ServiceClient(given)  # type: ignore[arg-type]
    assert meant in str(caught.value)

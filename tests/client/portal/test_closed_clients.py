"""After `close` every call says `ClientClosedError`, and none anything of the HTTP library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.client_calls import CALLS
from tinkex import ClientClosedError
from tinkex.local import Server


@pytest.mark.parametrize("name", CALLS)
def test_every_call_says_that_the_client_was_closed(
    name: str, connect: Callable[..., Any], server: Server
) -> None:
    service = connect(server.base_url)
    trainer = service.create_lora_training_client("fake/base", 8)
    sampler = service.create_sampling_client(base_model="fake/base")
    service.close()
    for _ in range(2):  # the second says the same, too
        with pytest.raises(ClientClosedError):
            CALLS[name](trainer, sampler).result()

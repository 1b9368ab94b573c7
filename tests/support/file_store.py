"""A store of files that gives out archives of checkpoints by signed URLs, in whole or by ranges."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

from attrs import define, field

from tests.support.answering_server import Answer, Answering, Call, answering, at_once

RUN = "S1:train:0"
PATH = f"tinker://{RUN}/sampler_weights/0001"
FOLDER = "S1_train_0_sampler_weights_0001"
CONTENT: Mapping[str, bytes] = {
    "adapter_config.json": b'{"r": 4}',
    "adapter_model.safetensors": b"weights" * 1000,
}
MIB = 2**20
Data = bytes | memoryview


@cache
def sha256(data: Data) -> bytes:
    return hashlib.sha256(data).digest()


@define
class Store:
    """Gives out bytes as a store of files does: by ranges, for signatures that are still good."""

    files: dict[str, Data]
    """The bytes of each path."""
    ranges: bool = True
    etags: bool = True
    digests: bool = False
    cuts: list[int] = field(factory=list)
    """The next answers break off after so many bytes."""
    arrived: threading.Event = field(factory=at_once)
    """An event that must be set before an answer breaks off."""
    good: str = "signature=1"
    calls: list[Call] = field(factory=list)

    def __call__(self, call: Call) -> Answer:
        self.calls.append(call)
        assert "x-api-key" not in call.headers, "the key is for the server alone"
        assert "x-secret" not in call.headers
        name, _, value = self.good.partition("=")
        if call.query.get(name) != value:
            return Answer(
                403,
                b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>",
            )
        return self.whole_or_range(call, self.files[call.path])

    def whole_or_range(self, call: Call, data: Data) -> Answer:
        etag = f'"{len(data)}"'
        headers = {
            "Content-Type": "application/octet-stream",
            **({"ETag": etag} if self.etags else {}),
        }
        if self.digests:
            headers["Repr-Digest"] = f"sha-256=:{base64.b64encode(sha256(data)).decode()}:"
        start, status = 0, 200
        wanted = (
            call.headers.get("range")
            if self.ranges and call.headers.get("if-range", etag) == etag
            else None
        )
        if wanted:
            start, status = int(wanted.removeprefix("bytes=").removesuffix("-")), 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return Answer(
            status, data[start:], headers, self.cuts.pop(0) if self.cuts else None, self.arrived
        )


@contextmanager
def stored(archive: Data, **how: Any) -> Iterator[tuple[Store, Answering, Answering]]:
    """Yields a store with an archive, its server, and a Tinker server whose archives lie there."""
    store = Store({"/0001.tar": archive}, **how)
    with ExitStack() as stack:
        there = stack.enter_context(answering(store))

        def archives(call: Call) -> Answer:
            assert call.headers["x-api-key"] == "tml-test"
            return Answer(302, headers={"Location": f"{there.base_url}/0001.tar?{store.good}"})

        yield store, there, stack.enter_context(answering(archives))

"""The messages between the server and its engine process. `number` identifies the call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from attrs import frozen

from tinkex_server.engine.interface import Engine, SampleSpec
from tinkex_server.engine.remote_errors import RemoteError

EngineFactory: TypeAlias = Callable[[], Engine]
"""A function that creates the engine, in its process. It is pickled, so the process must be able to
import it.
"""


@frozen
class Call:
    """A request to call a method of the engine that blocks."""

    number: int
    method: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]


@frozen
class StartSample:
    """A request to start a sample; `streamed` asks for each token."""

    number: int
    sampler_id: str
    spec: SampleSpec
    streamed: bool


@frozen
class Cancel:
    """A request to cancel a sample."""

    number: int


@frozen
class Ready:
    """The first reply: the engine is ready; `runs_on` says what it runs on."""

    runs_on: str


@frozen
class Heartbeat:
    """A sign that the process is alive. `cpu` is its processor time in seconds."""

    cpu: float


@frozen
class TokenSampled:
    """A reply with one sampled token."""

    number: int
    token: int
    logprob: float


@frozen
class CallResult:
    """A reply with the result of a call or of a sample."""

    number: int
    value: Any


@frozen
class CallFailure:
    """A reply with the error of a call."""

    number: int
    error: RemoteError

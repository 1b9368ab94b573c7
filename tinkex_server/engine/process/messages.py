"""What the server and its engine's process say to each other. `number` says which call it is
about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from attrs import frozen

from tinkex_server.engine.interface import Engine, SampleSpec

EngineFactory: TypeAlias = Callable[[], Engine]
"""Makes the engine, in its process. It is pickled, and so is of a module that the process can
import.
"""


@frozen
class Call:
    """To the process: call a method of the engine, one that blocks."""

    number: int
    method: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]


@frozen
class StartSample:
    """To the process: begin a sample. `streamed` asks for each token."""

    number: int
    sampler_id: str
    spec: SampleSpec
    streamed: bool


@frozen
class Cancel:
    """To the process: give up a sample."""

    number: int


@frozen
class Ready:
    """From the process, first of all: the engine is ready, and what it runs on."""

    runs_on: str


@frozen
class Heartbeat:
    """From the process, now and then: it lives. `cpu` is how many seconds of processor time it has
    taken.
    """

    cpu: float


@frozen
class TokenSampled:
    """From the process: a sampled token."""

    number: int
    token: int
    logprob: float


@frozen
class CallResult:
    """From the process: what a call returned, or a sample's result."""

    number: int
    value: Any


@frozen
class CallFailure:
    """From the process: how a call failed, as text, since the class of an error may need modules
    that the server must not import.
    """

    number: int
    invalid: bool  # whether it was an InvalidRequest
    text: str
    trace: str

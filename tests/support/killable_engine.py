"""A cheap engine for a process that is to be killed: some tokens make it wait, so that the kill
comes in the middle of something.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

from tinkex_server.engine.fake import FakeEngine
from tinkex_server.engine.interface import (
    CustomLoss,
    Example,
    InvalidRequest,
    LossResult,
    OnToken,
    OptimizerSettings,
    SampleResult,
    SampleSpec,
)

WAITS = 96
"""The first token of a batch, or of a prompt, that is never answered."""
BREAKS = 98
"""One that is a fault of the engine."""
EXITS = 94
"""One that ends the process by itself."""
HOLDS = 92
"""One that keeps the interpreter from all other threads, as a library may."""
COMPUTES = 90
"""One that is answered after it has computed for long."""
_LONG = 60.0  # seconds
_SOME = 4.0  # seconds
BASES = FakeEngine(["fake/base"]).base_models
"""The base models of all engines in this module."""


class KillableEngine(FakeEngine):
    def __init__(self) -> None:
        super().__init__(["fake/base"])
        self._given_up = 0
        print("libraries print what they like", flush=True)  # noqa: T201  which must not get into the messages

    def forward_backward(
        self,
        model_id: str,
        data: Sequence[Example],
        loss_fn: str | CustomLoss,
        config: Mapping[str, float],
        *,
        backward: bool,
    ) -> LossResult:
        _behave(data[0].tokens[0])
        return super().forward_backward(model_id, data, loss_fn, config, backward=backward)

    def sample(
        self, sampler_id: str, spec: SampleSpec, on_token: OnToken | None = None
    ) -> Future[SampleResult]:
        if spec.prompt[0] == WAITS:
            if on_token:
                on_token(1, -1.0)
            endless: Future[SampleResult] = Future()
            endless.add_done_callback(self._note_end)
            return endless
        if spec.prompt[0] == EXITS:
            os._exit(3)
        return super().sample(sampler_id, spec, on_token)

    def optim_step(self, model_id: str, settings: OptimizerSettings) -> Mapping[str, float]:
        """Tells among its metrics how many samples were given up."""
        return {**super().optim_step(model_id, settings), "given_up": self._given_up}

    def count_given_up(self) -> int:
        return self._given_up

    def _note_end(self, sample: Future[SampleResult]) -> None:
        self._given_up += 1


class FillingEngine(KillableEngine):
    """An engine without room for weights while a file exists."""

    def __init__(self, full: Path) -> None:
        super().__init__()
        self._full = full

    def load_sampler(self, sampler_id: str, base_model: str, folder: Path | None) -> None:
        if self._full.exists():
            raise MemoryError("no room for these weights")
        super().load_sampler(sampler_id, base_model, folder)


def _behave(token: int) -> None:
    if token == WAITS:
        time.sleep(_LONG)
    if token == BREAKS:
        raise ZeroDivisionError("the fake broke")
    if token == HOLDS:
        ctypes.PyDLL(None).sleep(int(_LONG))
    if token == COMPUTES:
        ends = time.process_time() + _SOME
        while time.process_time() < ends:
            pass
    if token == EXITS:
        os._exit(3)


def cannot_be_made() -> FakeEngine:
    """Fails as for a model that does not exist."""
    raise InvalidRequest("there is no folder /none")


def breaks_when_made() -> FakeEngine:
    """Fails as a broken library does."""
    raise ZeroDivisionError("the fake broke")


def does_not_start() -> FakeEngine:
    """Ends its process before there is an engine."""
    os._exit(4)


def starts_slowly(gate: Path) -> FakeEngine:
    """Makes the engine once the file `gate` exists."""
    while not gate.exists():
        time.sleep(0.01)
    return KillableEngine()

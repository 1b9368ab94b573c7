"""Fake vLLMs, and samplers over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.fake_vllm import BASE, FakeVllm, PeftNamedEngine, running_vllm
from tinkex_server.engine.interface import LoraShape, already_ready
from tinkex_server.engine.process.hang_detector import HangTimeouts
from tinkex_server.engine.vllm.sampler import Patience, VllmSampler
from tinkex_server.engine.vllm.settings import VllmSettings

PATIENCE = Patience(down=3.0, pauses=(0.0, 0.1), hang_timeouts=HangTimeouts(silent=1.0, idle=1.0))

MakeSampler = Callable[..., VllmSampler]
"""A function that makes a sampler of `VllmSettings`, and by request with a `Patience`."""


@pytest.fixture
def training() -> PeftNamedEngine:
    return PeftNamedEngine([BASE])


@pytest.fixture
def fake() -> Iterator[FakeVllm]:
    with running_vllm() as fake:
        yield fake


@pytest.fixture
def make_sampler(training: PeftNamedEngine) -> Iterator[MakeSampler]:
    with ExitStack() as opened:

        def make(settings: VllmSettings, patience: Patience = PATIENCE) -> VllmSampler:
            ready = already_ready("torch on cpu, float32")
            sampler = VllmSampler(
                training.base_models, {BASE: "/models/base"}, settings, ready, patience
            )
            opened.callback(sampler.close)
            return sampler

        yield make


@pytest.fixture
def sampler(fake: FakeVllm, make_sampler: MakeSampler) -> VllmSampler:
    sampler = make_sampler(VllmSettings(urls=[fake.url]))
    sampler.ready.result(10)
    return sampler


@pytest.fixture
def save_adapter(training: PeftNamedEngine, tmp_path: Path) -> Callable[[int], Path]:
    """A function that saves an adapter after a number of steps."""

    def save(steps: int) -> Path:
        from tests.support.batches import example
        from tinkex_server.engine.interface import AdamSettings

        model, folder = f"m{steps}", tmp_path / f"adapter-{steps}"
        training.create_model(model, BASE, LoraShape(4))
        for _ in range(steps):
            training.forward_backward(model, [example(5, 6, 7)], "cross_entropy", {}, backward=True)
            training.optim_step(model, AdamSettings())
        training.save_model(model, folder, optimizer=False)
        return folder

    return save

"""One job on every dialect, over a real socket, in both facades: the same losses on all, and a
plain word where a server cannot do a step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.support import whole_job as steps
from tests.support.whole_job import TWO_CHUNKS, Job, outcomes
from tinkex import Config
from tinkex.local import serve
from tinkex_server.engine.interface import Engine
from tinkex_server.engine.torch.engine import TorchEngine
from tinkex_server.profiles import PROFILES

STEPS = (
    *(
        steps.capabilities,
        steps.create_model,
        steps.train,
        steps.forward,
        steps.save_state,
        steps.save_weights_for_sampler,
    ),
    *(
        steps.save_weights_and_get_sampling_client,
        steps.sample_greedily,
        steps.sample_with_prompt_logprobs,
        steps.compute_logprobs,
    ),
    *(steps.resume_with_optimizer, steps.close),
)
LOSSES = (53.2331, 46.4051, 39.1877, 32.1046, 25.9052)
"""The losses of the five steps on `tinkex/tiny`, on every server that takes this seed."""

OTHERWISE: Mapping[str, Mapping[str, str]] = {
    "skyrl-0.3": {"forward": "differs"},
    "skyrl": {"forward": "differs"},
    "skyrl-0.4": {"forward": "differs"},
    "open-rl-old": {
        "sample_with_prompt_logprobs": "unsupported",
        "compute_logprobs": "unsupported",
    },
    "twinkle": {
        "forward": "differs",
        "sample_with_prompt_logprobs": "unsupported",
        "compute_logprobs": "unsupported",
    },
    "miles": {"create_model": "differs"},
    "xorl": {
        "capabilities": "unsupported",
        "sample_greedily": "unsupported",
        "sample_with_prompt_logprobs": "unsupported",
        "compute_logprobs": "unsupported",
    },
    "arctic": {
        "sample_greedily": "unsupported",
        "compute_logprobs": "skipped",
        "resume_with_optimizer": "unsupported",
    },
    "hatchery": {"capabilities": "differs", "forward": "differs"},
}
"""The steps of each profile whose outcome differs from that on most servers: a metric has another
name, or the server does not support the step.
"""


@pytest.fixture(scope="module")
def engine() -> Engine:
    return TorchEngine(["tinkex/tiny"])


@pytest.mark.rule(20)
@pytest.mark.parametrize("profile", PROFILES)
def test_a_job(profile: str, engine: Engine, connect: Callable[..., Any]) -> None:
    dialect = None if profile == "tinkex" else profile
    with serve(engine=engine, profile=profile, hold=0.5) as server:
        config = Config(base_url=server.base_url, chunk_limits=TWO_CHUNKS, dialect=dialect)
        job = Job(connect(server.base_url, config=config), model="tinkex/tiny")
        went = {outcome.step: outcome for outcome in outcomes(job, STEPS)}
    otherwise = {step: outcome.kind for step, outcome in went.items() if outcome.kind != "ok"}
    assert otherwise == OTHERWISE.get(profile, {}), "\n".join(
        f"{o.step} {o.kind}: {o.detail}" for o in went.values()
    )
    if profile != "miles":
        assert job.losses == pytest.approx(LOSSES, rel=1e-4)

"""The pytest plugin, in one run of pytest of its own that holds a module for each test here."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap

import pytest

from tests.support.inner_pytest import Outcomes, run_pytest

LOOP = """
from tinkex import AdamParams, Datum, ModelInput

def train(service, steps=5):
    trainer = service.create_lora_training_client("tinkex/tiny", rank=8)
    tokens = trainer.get_tokenizer().encode("forty two is 42")
    inputs = {"target_tokens": tokens[1:]}
    batch = [Datum(model_input=ModelInput.from_ints(tokens[:-1]), loss_fn_inputs=inputs)]
    losses = []
    for _ in range(steps):
        losses.append(trainer.forward_backward(batch, "cross_entropy").result().metrics["loss:sum"])
        trainer.optim_step(AdamParams(learning_rate=1e-3)).result()
    return losses
"""

LOOP_RUNS = """
def test_blocking(tinkex_service):
    losses = train(tinkex_service)
    assert losses == sorted(losses, reverse=True)

def test_asyncio(tinkex_async_service):
    import asyncio

    async def sample():
        async with tinkex_async_service as service:
            sampler = await service.create_sampling_client(base_model="tinkex/tiny")
            return await sampler.sample([1, 2, 3], 2, {"max_tokens": 4})

    assert len(asyncio.run(sample()).sequences) == 2

def test_another_clients_server(tinkex_server, tinkex_service):
    assert tinkex_service.config.base_url == tinkex_server.base_url
"""

OWN_SERVERS = """
@pytest.mark.parametrize("number", range(2))
def test_it(tinkex_service, number):
    rest = tinkex_service.create_rest_client()
    assert len(rest.list_training_runs().training_runs) == 0
    train(tinkex_service, 1)
    assert len(rest.list_training_runs().training_runs) == 1
"""

TORCH_ONCE = """
urls = set()

@pytest.mark.tinkex(engine="torch")
class TestTorch:
    @pytest.mark.parametrize("number", range(2))
    def test_it(self, tinkex_server, tinkex_service, number):
        assert "torch" in tinkex_server.ready.result()
        assert train(tinkex_service, 1)[0] > 0
        urls.add(tinkex_server.base_url)

    @pytest.mark.tinkex(engine="fake")
    def test_the_nearest_marker_goes_first(self, tinkex_server):
        assert "fake" in tinkex_server.ready.result()
        assert len(urls) == 1
"""

MODEL_AND_PROFILE = """
@pytest.mark.tinkex(model="my/model", profile="skyrl")
def test_it(tinkex_server, tinkex_service):
    assert [model.name for model in tinkex_server.models] == ["my/model"]
    tinkex_service.create_lora_training_client("my/model", rank=8)
    assert tinkex_service.server.name.startswith("skyrl")
"""

FAULTS = """
from tinkex import events

@pytest.mark.tinkex(rate_limit=2, server_errors=2, lost_answers=2)
def test_it(tinkex_service):
    statuses = []

    def note(event):
        if isinstance(event, (events.HttpRequestStop, events.HttpRequestException)):
            if event.operation in ("create_model", "forward_backward"):
                statuses.append(getattr(event, "status", None))

    events.attach(note)
    assert train(tinkex_service, 1)
    events.detach(note)
    assert statuses == [429, 429, 503, 503, None, None, 200, 200]

@pytest.mark.tinkex(lost_answers=1, operations=["forward_backward"], delay=0.05)
def test_a_step_whose_answer_is_lost_counts_once(tinkex_service):
    assert train(tinkex_service, 3) == train(tinkex_service, 3)
"""

WRONG_MARKERS = {
    "a name that there is not": ("engin='fake'", "'engin'"),
    "without a name": ("'fake'", "'fake'"),
}

MODULES = {
    "test_loop": LOOP_RUNS,
    "test_own_servers": OWN_SERVERS,
    "test_torch": TORCH_ONCE,
    "test_model_and_profile": MODEL_AND_PROFILE,
    "test_faults": FAULTS,
    "test_wrong_markers": "".join(
        f"@pytest.mark.tinkex({marker})\ndef test_{number}(tinkex_server): pass\n"
        for number, (marker, _) in enumerate(WRONG_MARKERS.values())
    ),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """The outcomes of all modules, in one run."""
    imports = "import pytest\nfrom loop import train\n"
    tests = {name: imports + source for name, source in MODULES.items()}
    return run_pytest(tmp_path_factory.mktemp("plugin"), {"loop": LOOP, **tests})


def test_a_training_loop_is_tested_without_anything_set_up(outcomes: Outcomes) -> None:
    outcomes.assert_passed("test_loop", tests=3)


def test_each_test_has_a_fake_server_of_its_own(outcomes: Outcomes) -> None:
    outcomes.assert_passed("test_own_servers", tests=2)


def test_the_torch_engine_is_started_once(outcomes: Outcomes) -> None:
    outcomes.assert_passed("test_torch", tests=3)


def test_the_marker_chooses_model_and_profile(outcomes: Outcomes) -> None:
    outcomes.assert_passed("test_model_and_profile", tests=1)


def test_a_loop_survives_the_faults_of_the_marker(outcomes: Outcomes) -> None:
    outcomes.assert_passed("test_faults", tests=2)


def test_a_marker_that_makes_no_sense_is_refused(outcomes: Outcomes) -> None:
    assert list(outcomes.by_module["test_wrong_markers"].values()) == ["error"] * len(WRONG_MARKERS)
    for _, wrong in WRONG_MARKERS.values():
        assert re.search(
            "the marker tinkex takes only the keywords engine, model, profile, delay,.*, "
            f"not {wrong}\n",
            outcomes.output,
        )


def test_a_pytest_run_without_the_fixtures_imports_nothing() -> None:
    script = """
        import sys
        import tinkex.pytest_plugin
        heavy = {"torch", "httpx", "starlette", "numpy", "tinkex_api"}
        print([name for name in sys.modules if name.split(".")[0] in heavy])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"

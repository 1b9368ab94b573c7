"""The pytest plugin, in runs of pytest of its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

pytest_plugins = ["pytester"]

LOOP = """
from tinkex import AdamParams, Datum, ModelInput

def train(service, steps=5):
    trainer = service.create_lora_training_client("tinkex/tiny", rank=8)
    tokens = trainer.get_tokenizer().encode("forty two is 42")
    batch = [Datum(model_input=ModelInput.from_ints(tokens[:-1]), loss_fn_inputs={"target_tokens": tokens[1:]})]
    losses = []
    for _ in range(steps):
        losses.append(trainer.forward_backward(batch, "cross_entropy").result().metrics["loss:sum"])
        trainer.optim_step(AdamParams(learning_rate=1e-3)).result()
    return losses
"""


def run(pytester: pytest.Pytester, tests: str) -> pytest.RunResult:
    pytester.makepyfile(
        loop=LOOP, test_it="import pytest\nfrom loop import train\n" + textwrap.dedent(tests)
    )
    return pytester.runpytest_subprocess(
        "-p", "tinkex.pytest_plugin", "--strict-markers", "-W", "error"
    )


def test_a_training_loop_is_tested_without_anything_set_up(pytester: pytest.Pytester) -> None:
    tests = """
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
    run(pytester, tests).assert_outcomes(passed=3)


def test_each_test_has_a_fake_server_of_its_own(pytester: pytest.Pytester) -> None:
    tests = """
        @pytest.mark.parametrize("number", range(2))
        def test_it(tinkex_service, number):
            rest = tinkex_service.create_rest_client()
            assert len(rest.list_training_runs().training_runs) == 0
            train(tinkex_service, 1)
            assert len(rest.list_training_runs().training_runs) == 1
    """
    run(pytester, tests).assert_outcomes(passed=2)


def test_the_torch_engine_is_started_once(pytester: pytest.Pytester) -> None:
    tests = """
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
    run(pytester, tests).assert_outcomes(passed=3)


def test_the_marker_chooses_model_and_profile(pytester: pytest.Pytester) -> None:
    tests = """
        @pytest.mark.tinkex(model="my/model", profile="skyrl")
        def test_it(tinkex_server, tinkex_service):
            assert [model.name for model in tinkex_server.models] == ["my/model"]
            tinkex_service.create_lora_training_client("my/model", rank=8)
            assert tinkex_service.server.name.startswith("skyrl")
    """
    run(pytester, tests).assert_outcomes(passed=1)


def test_a_loop_outlives_the_faults_that_the_marker_names(pytester: pytest.Pytester) -> None:
    tests = """
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
    run(pytester, tests).assert_outcomes(passed=2)


@pytest.mark.parametrize(("marker", "wrong"), [("engin='fake'", "'engin'"), ("'fake'", "'fake'")])
def test_a_marker_that_makes_no_sense_is_refused(
    pytester: pytest.Pytester, marker: str, wrong: str
) -> None:
    done = run(pytester, f"@pytest.mark.tinkex({marker})\ndef test_it(tinkex_server): pass")
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(
        [f"*the marker tinkex takes engine, model, profile, delay,* each by name, and not {wrong}"]
    )


def test_a_run_of_pytest_that_does_not_use_it_does_not_pay_for_it() -> None:
    script = """
        import sys
        import tinkex.pytest_plugin
        print([name for name in sys.modules if name.split(".")[0] in ("torch", "httpx", "starlette", "numpy", "tinkex_api")])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"

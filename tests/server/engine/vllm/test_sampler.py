"""The sampler gives what vLLM answers, loads adapters where they are asked for, asks again after a
fault, and fails by name rather than hang or return a wrong result.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from tests.server.engine.vllm.conftest import PATIENCE, MakeSampler
from tests.support.fake_vllm import BASE, FakeVllm, PeftNamedEngine, running_vllm
from tests.support.wait_until import wait_until
from tinkex_server.engine.interface import InvalidRequest, SampleSpec
from tinkex_server.engine.vllm.errors import SamplerFailed
from tinkex_server.engine.vllm.requests import mixed_seed
from tinkex_server.engine.vllm.sampler import VllmSampler
from tinkex_server.engine.vllm.settings import VllmSettings

Save = Callable[[int], Path]
SPEC = SampleSpec([5, 6, 7], num_samples=2, max_tokens=8, seed=1, topk_sample_logprobs=2)


def as_vllm_sees(spec: SampleSpec) -> SampleSpec:
    """Returns the request with which the fake engine gives what the fake vLLM does."""
    from attrs import evolve

    assert spec.seed is not None
    return evolve(spec, seed=mixed_seed(spec.seed))


def test_samples_of_the_base_model_and_of_adapters_are_those_of_vllm(
    sampler: VllmSampler, training: PeftNamedEngine, save_adapter: Save
) -> None:
    for name, folder in {"base": None, "one": save_adapter(1), "two": save_adapter(2)}.items():
        sampler.load_sampler(name, BASE, folder)
        training.load_sampler(name, BASE, folder)
    results = {}
    for name in ("base", "one", "two"):
        result = sampler.sample(name, SPEC).result(10)
        assert result.sequences == training.sample(name, as_vllm_sees(SPEC)).result().sequences
        results[name] = result.sequences[0].logprobs
    assert len({tuple(logprobs) for logprobs in results.values()}) == 3


def test_a_stream_gives_each_token_and_then_the_same_result(sampler: VllmSampler) -> None:
    sampler.load_sampler("base", BASE, None)
    spec, streamed = SampleSpec([5, 6], max_tokens=6, seed=2), list[tuple[int, float]]()
    result = sampler.sample("base", spec, lambda *token: streamed.append(token)).result(10)
    [sample] = result.sequences
    assert streamed == list(zip(sample.tokens, sample.logprobs, strict=True))
    assert sample == sampler.sample("base", spec).result(10).sequences[0]


def test_a_sampler_keeps_its_adapter_when_the_folder_is_replaced_or_deleted(
    sampler: VllmSampler, fake: FakeVllm, save_adapter: Save
) -> None:
    folder = save_adapter(1)
    sampler.load_sampler("s", BASE, folder)
    before = sampler.sample("s", SPEC).result(10)
    shutil.rmtree(folder)
    fake.adapters.clear()  # as after a restart of vLLM
    assert sampler.sample("s", SPEC).result(10) == before


def test_a_new_generation_replaces_the_old_one_which_is_unloaded(
    sampler: VllmSampler, fake: FakeVllm, save_adapter: Save
) -> None:
    sampler.load_sampler("s", BASE, save_adapter(1))
    before = sampler.sample("s", SPEC).result(10)
    [old] = fake.adapters
    sampler.load_sampler("s", BASE, save_adapter(2))
    assert sampler.sample("s", SPEC).result(10) != before
    wait_until(lambda: old not in fake.adapters)
    assert len(fake.adapters) == 1


def test_an_adapter_in_use_is_unloaded_after_its_samples(
    sampler: VllmSampler, fake: FakeVllm, save_adapter: Save
) -> None:
    sampler.load_sampler("s", BASE, save_adapter(1))
    fake.pause = 0.5
    sample = sampler.sample("s", SPEC)
    wait_until(lambda: fake.running == 1)
    sampler.unload_sampler("s")
    assert sample.result(10)
    wait_until(lambda: not fake.adapters)
    with pytest.raises(InvalidRequest, match="unknown sampler 's'"):
        sampler.sample("s", SPEC).result(10)


def test_a_sample_that_was_asked_for_before_the_unload_is_given(
    sampler: VllmSampler, fake: FakeVllm, save_adapter: Save
) -> None:
    sampler.load_sampler("s", BASE, save_adapter(1))
    fake.delay = 0.3
    busy, go_on = threading.Event(), threading.Event()

    def keep_busy(token: int, logprob: float) -> None:
        busy.set()
        go_on.wait(5)

    # while the sampler's thread is busy, both calls wait for it
    sampler.load_sampler("base", BASE, None)
    streamed = sampler.sample("base", SampleSpec([5], max_tokens=1), keep_busy)
    assert busy.wait(10)
    sample = sampler.sample("s", SPEC)
    sampler.unload_sampler("s")
    go_on.set()
    assert sample.result(10)
    assert streamed.result(10)


def test_a_cancelled_sample_is_ended_in_vllm(sampler: VllmSampler, fake: FakeVllm) -> None:
    sampler.load_sampler("base", BASE, None)
    fake.pause = 60.0
    sample = sampler.sample("base", SPEC)
    wait_until(lambda: fake.running == 1)
    assert sample.cancel()
    wait_until(lambda: fake.aborted == 1)
    with pytest.raises(CancelledError):
        sample.result(10)


@pytest.mark.parametrize("fault", ["500", "aborted"])
def test_a_sample_is_asked_for_again_after_a_fault_that_may_pass(
    sampler: VllmSampler, fake: FakeVllm, fault: str
) -> None:
    sampler.load_sampler("base", BASE, None)
    expected = sampler.sample("base", SPEC).result(10)
    fake.faults[fault] = 1
    assert sampler.sample("base", SPEC).result(10) == expected
    fake.faults["500"] = 1000
    with pytest.raises(SamplerFailed, match=r"failed a sample 3 times.*CUDA error"):
        sampler.sample("base", SPEC).result(20)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("wrong token", r"wrong answer.*token 0 of a sample is \d+, and its logprob is of \d+"),
        ("token beyond the vocabulary", r"token 0 of a sample is 1048576, and the model has"),
        ("no logprobs", r"wrong answer to a sample: it has no logprobs"),
        ("diverged", r"no finite logprob: the weights of the adapter have probably diverged"),
    ],
)
def test_a_wrong_answer_fails_by_name_and_is_not_repeated(
    sampler: VllmSampler, fake: FakeVllm, fault: str, message: str
) -> None:
    sampler.load_sampler("base", BASE, None)
    fake.faults[fault] = 1
    with pytest.raises(SamplerFailed, match=message):
        sampler.sample("base", SPEC).result(10)
    assert fake.calls["/inference/v1/generate"] == 1
    assert sampler.sample("base", SPEC).result(10)


def test_a_stream_that_breaks_off_is_not_begun_again(sampler: VllmSampler, fake: FakeVllm) -> None:
    sampler.load_sampler("base", BASE, None)
    fake.faults["breaks off"] = 1
    streamed = list[int]()
    spec = SampleSpec([5], max_tokens=8)
    with pytest.raises(SamplerFailed, match="failed after 3 tokens of a streamed sample"):
        sampler.sample("base", spec, lambda token, _: streamed.append(token)).result(10)
    assert len(streamed) == 3


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (SampleSpec([5], top_p=7.0), r"vLLM refused the request: top_p must be in \(0, 1\]"),
        (SampleSpec([]), "the prompt has 0 tokens; fake/base takes 1 to 32767 here"),
        (SampleSpec([5, 1 << 18]), r"prompt\[1\] is 262144; fake/base has the tokens 0 to 262143"),
    ],
)
def test_an_invalid_request_is_the_sender_s_fault(
    sampler: VllmSampler, spec: SampleSpec, message: str
) -> None:
    sampler.load_sampler("base", BASE, None)
    with pytest.raises(InvalidRequest, match=message):
        sampler.sample("base", spec).result(10)


def test_an_adapter_that_vllm_cannot_take_is_refused_when_it_is_loaded(
    sampler: VllmSampler, fake: FakeVllm, save_adapter: Save, tmp_path: Path
) -> None:
    fake.faults["large adapter"] = 1
    with pytest.raises(InvalidRequest, match=r"rank 128 is greater.*--vllm-args"):
        sampler.load_sampler("s", BASE, save_adapter(1))
    with pytest.raises(InvalidRequest, match="the saved weights were deleted"):
        sampler.load_sampler("s", BASE, tmp_path / "nothing")
    with pytest.raises(InvalidRequest, match="unknown base model 'other'"):
        sampler.load_sampler("s", "other", None)
    fake.faults["no run-time adapters"] = 1
    with pytest.raises(SamplerFailed, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"):
        sampler.load_sampler("s", BASE, save_adapter(2))


def test_a_vllm_without_the_endpoint_says_which_argument_it_lacks(
    sampler: VllmSampler, fake: FakeVllm
) -> None:
    sampler.load_sampler("base", BASE, None)
    fake.faults["disabled"] = 1
    with pytest.raises(SamplerFailed, match="start it with --enable-scale-out"):
        sampler.sample("base", SPEC).result(10)


def test_a_vllm_that_hangs_is_given_up_in_bounded_time(
    sampler: VllmSampler, fake: FakeVllm
) -> None:
    sampler.load_sampler("base", BASE, None)
    fake.faults.update({"hangs": 1, "stuck": 1})
    began = time.monotonic()
    sample = sampler.sample("base", SPEC)
    wait_until(lambda: fake.aborted >= 1, seconds=20)
    fake.faults.clear()
    assert sample.result(20)
    assert time.monotonic() - began < 25


def test_samples_wait_for_a_vllm_that_is_away_and_then_fail_by_name(
    make_sampler: MakeSampler, save_adapter: Save
) -> None:
    with running_vllm() as fake:
        port = int(fake.url.rpartition(":")[2])
        sampler = make_sampler(VllmSettings(urls=[fake.url]))
        sampler.load_sampler("s", BASE, save_adapter(1))
        before = sampler.sample("s", SPEC).result(10)
    waiting = sampler.sample("s", SPEC)
    with running_vllm(port=port) as again:
        assert waiting.result(20) == before
        assert len(again.adapters) == 1
    with pytest.raises(SamplerFailed, match=r"no vLLM has answered for 3 s.*restart it"):
        sampler.sample("s", SPEC).result(20)


def test_a_vllm_that_comes_back_with_another_model_is_not_asked(
    make_sampler: MakeSampler,
) -> None:
    with running_vllm() as fake:
        port = int(fake.url.rpartition(":")[2])
        sampler = make_sampler(VllmSettings(urls=[fake.url]))
        sampler.ready.result(10)
    sampler.load_sampler("base", BASE, None)
    waiting = sampler.sample("base", SPEC)
    time.sleep(1.5)  # a vLLM takes far longer to start
    with (
        running_vllm(FakeVllm(root="/models/other"), port=port),
        pytest.raises(SamplerFailed, match="serves '/models/other' since it was restarted"),
    ):
        waiting.result(20)


def test_several_vllms_share_the_samples_and_stand_in_for_each_other(
    make_sampler: MakeSampler, save_adapter: Save
) -> None:
    with running_vllm() as one:
        with running_vllm() as two:
            sampler = make_sampler(VllmSettings(urls=[one.url, two.url]))
            assert sampler.ready.result(10) == "vLLM 0.32.0 (2 replicas)"
            sampler.load_sampler("s", BASE, save_adapter(1))
            expected = sampler.sample("s", SPEC).result(10)
            one.pause = two.pause = 0.3
            samples = [sampler.sample("s", SPEC) for _ in range(40)]
            assert [sample.result(20) for sample in samples] == [expected] * 40
            assert min(len(one.bodies), len(two.bodies)) > 5
            assert len(one.adapters) == len(two.adapters) == 1
            samples = [sampler.sample("s", SPEC) for _ in range(20)]
        assert [sample.result(20) for sample in samples] == [expected] * 20


def test_each_of_several_base_models_is_sampled_where_it_is_served() -> None:
    both = PeftNamedEngine([BASE, "other"])
    with (
        running_vllm(FakeVllm(root="/models/other")) as other,
        running_vllm(FakeVllm(root="/models/base")) as one,
    ):
        settings = VllmSettings(urls=[other.url, one.url])
        sources = {BASE: "/models/base", "other": "/models/other"}
        sampler = VllmSampler(both.base_models, sources, settings, both.ready, PATIENCE)
        try:
            sampler.ready.result(10)
            for name in sources:
                sampler.load_sampler(name, name, None)
                sampler.sample(name, SPEC).result(10)
            sampler.sample("other", SPEC).result(10)
            assert (len(one.bodies), len(other.bodies)) == (1, 2)
        finally:
            sampler.close()
        missing = {BASE: "/models/base", "other": "/models/third"}
        sampler = VllmSampler(both.base_models, missing, settings, both.ready, PATIENCE)
        try:
            with pytest.raises(SamplerFailed, match=r"none of the vLLMs at .* serves other"):
                sampler.ready.result(10)
        finally:
            sampler.close()


def test_a_server_that_is_no_vllm_fails_the_start_by_name(make_sampler: MakeSampler) -> None:
    fake = FakeVllm()
    fake.faults["no vllm"] = 1
    with running_vllm(fake):
        sampler = make_sampler(VllmSettings(urls=[fake.url]))
        with pytest.raises(SamplerFailed, match=r"does not answer as vLLM does: .*no such page"):
            sampler.ready.result(10)


def test_an_address_where_nobody_answers_fails_the_start_by_name(
    make_sampler: MakeSampler,
) -> None:
    sampler = make_sampler(VllmSettings(urls=["http://127.0.0.1:9"]))
    with pytest.raises(SamplerFailed, match=r"http://127.0.0.1:9 has not answered for 3 s"):
        sampler.ready.result(20)

"""One engine of two: training calls go to the first, samples to the second, scores to the first; a
sampler that does not agree with the trainer is refused at the start.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

import tinkex
import tinkex.local
from tests.support.fake_vllm import BASE, FakeVllm, PeftNamedEngine, running_vllm
from tinkex_server.engine.agreement import check_agreement
from tinkex_server.engine.disaggregated import DisaggregatedEngine
from tinkex_server.engine.factory import create_engine
from tinkex_server.engine.interface import EngineDied, InvalidRequest, SampleSpec
from tinkex_server.engine.vllm.sampler import Patience, VllmSampler
from tinkex_server.engine.vllm.settings import VllmSettings
from tinkex_server.limits import Limits


@contextmanager
def disaggregated_engine(
    fake: FakeVllm, max_difference: float = 0.18
) -> Iterator[DisaggregatedEngine]:
    training = PeftNamedEngine([BASE])
    sampler = VllmSampler(
        training.base_models,
        {BASE: BASE},
        VllmSettings(urls=[fake.url]),
        training.ready,
        Patience(down=3.0),
    )
    check = partial(check_agreement, max_difference=max_difference)
    engine = DisaggregatedEngine(training, sampler, check)
    try:
        yield engine
    finally:
        engine.close()


def test_samples_come_from_vllm_and_scores_of_prompts_from_the_trainer() -> None:
    with running_vllm() as fake, disaggregated_engine(fake) as engine:
        assert engine.ready.result(20).startswith(
            "the fake engine, which makes up its numbers: for tests of clients; samples by vLLM "
            "0.32.0, logprobs differ by at most 0"
        )
        engine.load_sampler("base", BASE, None)
        fake.bodies.clear()
        scored = engine.sample(
            "base", SampleSpec([5, 6, 7], 2, 8, prompt_logprobs=True, topk_prompt_logprobs=2)
        ).result(10)
        [body] = fake.bodies
        assert "prompt_logprobs" not in body["sampling_params"]
        assert [len(sample.tokens) for sample in scored.sequences] == [8, 8]
        assert scored.prompt_logprobs is not None
        assert scored.prompt_logprobs[0] is None
        assert scored.topk_prompt_logprobs is not None
        engine.sample("base", SampleSpec([5, 6], 1, 1, prompt_logprobs=True)).result(10)
        assert len(fake.bodies) == 1  # scores alone are the trainer's


def test_a_joined_result_fails_with_either_part_and_cancels_both() -> None:
    with running_vllm() as fake, disaggregated_engine(fake) as engine:
        engine.load_sampler("base", BASE, None)
        fake.faults["wrong token"] = 1
        asked = SampleSpec([5, 6, 7], 1, 8, prompt_logprobs=True)
        with pytest.raises(EngineDied, match="wrong answer"):
            engine.sample("base", asked).result(10)
        fake.pause = 60.0
        sample = engine.sample("base", asked)
        assert sample.cancel()


def test_a_sampler_with_other_logprobs_is_refused_at_the_start() -> None:
    fake = FakeVllm()
    fake.faults["other logprobs"] = 1
    with running_vllm(fake), disaggregated_engine(fake) as engine:
        with pytest.raises(EngineDied, match=r"differ by up to 0\.5 nats.*--vllm-max-difference"):
            engine.ready.result(20)
        with pytest.raises(EngineDied, match=r"differ by up to 0\.5 nats"):
            engine.load_sampler("base", BASE, None)
    fake.faults["other logprobs"] = 1
    with running_vllm(fake), disaggregated_engine(fake, max_difference=0.6) as engine:
        assert "logprobs differ by at most 0.5" in engine.ready.result(20)


def test_an_engine_that_is_closed_while_it_starts_says_so_and_does_not_hang() -> None:
    with disaggregated_engine(FakeVllm(url="http://127.0.0.1:9")) as engine:
        engine.close()
        with pytest.raises(EngineDied, match="the engine was closed"):
            engine.load_sampler("base", BASE, None)


def test_the_settings_must_fit_each_other() -> None:
    with pytest.raises(InvalidRequest, match="either --vllm-python"):
        VllmSettings()
    with pytest.raises(InvalidRequest, match="either --vllm-python"):
        VllmSettings(python="python", urls=["http://x"])
    with pytest.raises(InvalidRequest, match="--vllm-python /nope is not a program"):
        VllmSettings(python="/nope")
    with pytest.raises(InvalidRequest, match="--vllm-args are for a vLLM that the server starts"):
        VllmSettings(urls=["http://x"], args=["--x"])
    with pytest.raises(InvalidRequest, match="must be above 0"):
        VllmSettings(urls=["http://x"], max_difference=float("nan"))
    with pytest.raises(InvalidRequest, match="use --engine torch"):
        create_engine("fake", ["x"], vllm=VllmSettings(urls=["http://x"]))


def test_a_client_trains_and_samples_many_adapters_while_few_are_kept(tmp_path: Path) -> None:
    with (
        running_vllm() as fake,
        disaggregated_engine(fake) as engine,
        tinkex.local.serve(engine=engine, data_dir=tmp_path, limits=Limits(samplers=4)) as server,
        tinkex.ServiceClient(base_url=server.base_url, api_key="tml-x") as service,
    ):
        engine.ready.result(20)
        capabilities = service.get_server_capabilities()
        assert "vLLM 0.32.0, logprobs differ by at most 0" in (capabilities.runs_on or "")
        trainer = service.create_lora_training_client(BASE, rank=4)
        prompt = tinkex.ModelInput.from_ints([5, 6, 7])
        datum = tinkex.Datum(prompt, {"target_tokens": [6, 7, 8]})
        params = tinkex.SamplingParams(max_tokens=8, seed=1)
        samplers, logprobs = list[tinkex.SamplingClient](), list[float]()
        for _ in range(12):
            trainer.forward_backward([datum], "cross_entropy").result(20)
            trainer.optim_step(tinkex.AdamParams()).result(20)
            samplers.append(trainer.save_weights_and_get_sampling_client())
            first = samplers[-1].sample(prompt, 1, params).result(20)
            logprobs.append(first.sequences[0].logprobs[0])
        assert len(set(logprobs)) == 12
        for sampler, before in zip(samplers, logprobs, strict=True):  # each kept its snapshot
            again = sampler.sample(prompt, 1, params).result(20)
            assert again.sequences[0].logprobs[0] == before
        assert 4 <= fake.most_adapters <= 6

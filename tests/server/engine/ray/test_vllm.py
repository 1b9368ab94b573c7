"""Samplers with a vLLM each, placed by Ray: samples are those of one vLLM, scores of prompts those
of the trainer, and neither a dead vLLM nor a lost actor or node loses a sample.
"""

from __future__ import annotations

import os
import re
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="ray is not installed: `make test-ray` tests with it")

from attrs import evolve, frozen

import tinkex.local
from tests.server.engine.vllm.test_sampler import as_vllm_sees
from tests.support.batches import datum, example
from tests.support.fake_vllm import BASE, PeftNamedEngine, fake_python, running_vllm
from tests.support.processes import is_running
from tests.support.ray_cluster import LocalCluster, place_of, trainer_of
from tests.support.wait_until import wait_until
from tinkex import AdamParams, ServiceClient
from tinkex_server.engine.agreement import check_agreement
from tinkex_server.engine.disaggregated import DisaggregatedEngine
from tinkex_server.engine.factory import create_vllm_sampler, with_vllm
from tinkex_server.engine.interface import (
    AdamSettings,
    EngineDied,
    EngineExit,
    LoraShape,
    SampleSpec,
)
from tinkex_server.engine.ray.engine import RayEngine, VllmOnRay
from tinkex_server.engine.ray.samplers import VllmSamplers
from tinkex_server.engine.ray.settings import RaySettings
from tinkex_server.engine.vllm.settings import VllmSettings

START = 180  # seconds; a crowded machine takes long to start a process
SPEC = SampleSpec([5, 6, 7], num_samples=2, max_tokens=8, seed=1)


@frozen
class Vllms:
    """The fake vLLMs of a test: an interpreter that starts them and notes their process ids."""

    folder: Path

    @property
    def python(self) -> str:
        return fake_python(self.folder, prelude=f"echo $$ >> {self.folder}/pids")

    def pids(self) -> list[int]:
        """Returns the ids of the vLLMs that run now."""
        file = self.folder / "pids"
        pids = [int(line) for line in file.read_text().split()] if file.exists() else []
        return [pid for pid in pids if is_running(pid)]


@frozen
class OnRay:
    """An engine that trains on a cluster, and the vLLMs that sample for it."""

    both: DisaggregatedEngine
    ray: RayEngine
    samplers: VllmSamplers

    def loaded(self) -> int:
        """Returns how many samplers have weights."""
        return sum(bool(replica.has) for replica in self.replicas())

    def replicas(self) -> Sequence[Any]:
        return self.samplers.pools[BASE]._replicas

    def sample(self, name: str, spec: SampleSpec = SPEC) -> Any:
        return self.both.sample(name, spec)


@pytest.fixture
def vllms(tmp_path: Path) -> Vllms:
    return Vllms(tmp_path)


@contextmanager
def on_ray(cluster: LocalCluster, python: str, samplers: int = 2) -> Iterator[OnRay]:
    [info] = PeftNamedEngine([BASE]).base_models
    settings = VllmSettings(python=python)
    engine = RayEngine(
        {BASE: partial(PeftNamedEngine, [BASE])},
        [info],
        RaySettings(address=cluster.address, samplers=samplers),
        vllm=VllmOnRay(
            settings=settings,
            factories={BASE: partial(create_vllm_sampler, info, BASE, settings)},
        ),
        pauses=(0, 0),
    )
    assert engine.vllm_samplers
    check = partial(check_agreement, max_difference=settings.max_difference)
    both = DisaggregatedEngine(engine, engine.vllm_samplers, check)
    try:
        yield OnRay(both, engine, engine.vllm_samplers)
    finally:
        both.close()


def train_and_load(engine: OnRay, folder: Path) -> PeftNamedEngine:
    """Trains an adapter and loads it as "s", beside the base model as "base"; returns an engine in
    this process that has the same.
    """
    alone = PeftNamedEngine([BASE])
    for each, place in ((engine.both, folder / "there"), (alone, folder / "here")):
        each.create_model("m", BASE, LoraShape(4))
        each.forward_backward("m", [example(5, 6)], "cross_entropy", {}, backward=True)
        each.optim_step("m", AdamSettings())
        each.save_model("m", place, optimizer=False)
        each.load_sampler("s", BASE, place)
        each.load_sampler("base", BASE, None)
    return alone


def adapter_files(pid: int) -> Sequence[Path]:
    """Returns the files that an actor on this machine keeps for its vLLM."""
    return list(Path(tempfile.gettempdir()).glob(f"tinkex-engine-{pid}-*/*/adapter_*"))


def sequences(result: Any) -> Sequence[Any]:
    return result.result(START).sequences


def test_samples_are_those_of_vllm_and_scores_those_of_the_trainer(
    cluster: LocalCluster, vllms: Vllms, tmp_path: Path
) -> None:
    with on_ray(cluster, vllms.python, samplers=3) as engine:
        assert re.fullmatch(
            r"Ray with \d nodes, the fake engine.*; samples by vLLM 0\.32\.0 in 3 samplers for "
            r"each model, logprobs differ by at most 0.*",
            engine.both.ready.result(START),
        )
        alone = train_and_load(engine, tmp_path)
        for name in ("s", "base"):
            assert sequences(engine.sample(name)) == sequences(
                alone.sample(name, as_vllm_sees(SPEC))
            )
        assert sequences(engine.sample("s")) != sequences(engine.sample("base"))
        scoring = SampleSpec([5, 6, 7], 1, 1, prompt_logprobs=True)
        assert engine.sample("s", scoring).result(START) == alone.sample("s", scoring).result()
        streamed: list[tuple[int, float]] = []
        spec = SampleSpec([5, 6], max_tokens=6, seed=2)
        whole = engine.both.sample("s", spec, lambda *token: streamed.append(token)).result(START)
        [sample] = whole.sequences
        assert streamed == list(zip(sample.tokens, sample.logprobs, strict=True))
        wait_until(lambda: engine.loaded() == 3, START)
        assert len(vllms.pids()) == 3
        engine.both.unload_sampler("s")
        engine.both.unload_sampler("base")
        wait_until(lambda: engine.loaded() == 0, START)
        started = vllms.pids()
    assert not any(is_running(pid) for pid in started), "they end with the server"


def test_a_vllm_that_is_killed_loses_no_sample_and_is_replaced_with_its_adapters(
    cluster: LocalCluster, vllms: Vllms, tmp_path: Path
) -> None:
    with on_ray(cluster, vllms.python) as engine:
        engine.both.ready.result(START)
        train_and_load(engine, tmp_path)
        known = sequences(engine.sample("s"))
        wait_until(lambda: engine.loaded() == 2, START)
        before = vllms.pids()
        for victim in before:  # one after the other, so that each of them is missed
            samples = [engine.sample("s") for _ in range(20)]
            os.kill(victim, signal.SIGKILL)
            samples += [engine.sample("s") for _ in range(20)]
            assert all(sequences(sample) == known for sample in samples)
            wait_until(lambda: len(vllms.pids()) == 2 and engine.loaded() == 2, START)
        assert set(before).isdisjoint(vllms.pids())


def test_a_dead_vllm_is_replaced_before_anybody_asks_it(
    cluster: LocalCluster, vllms: Vllms
) -> None:
    with on_ray(cluster, vllms.python, samplers=1) as engine:
        engine.both.ready.result(START)
        [victim] = vllms.pids()
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(vllms.pids()) == 1, START)
        engine.both.load_sampler("base", BASE, None)
        assert sequences(engine.sample("base"))


def test_an_actor_that_is_killed_takes_its_vllm_along_and_no_sample(
    cluster: LocalCluster, vllms: Vllms, tmp_path: Path
) -> None:
    with on_ray(cluster, vllms.python) as engine:
        engine.both.ready.result(START)
        train_and_load(engine, tmp_path)
        known = sequences(engine.sample("s"))
        wait_until(lambda: engine.loaded() == 2, START)
        before = set(vllms.pids())
        victim, other = (place_of(each.group).pid for each in engine.replicas())
        assert adapter_files(victim)
        samples = [engine.sample("s") for _ in range(20)]
        os.kill(victim, signal.SIGKILL)
        samples += [engine.sample("s") for _ in range(20)]
        assert all(sequences(sample) == known for sample in samples)
        wait_until(lambda: len(before & set(vllms.pids())) == 1, START)
        wait_until(lambda: engine.loaded() == 2 and len(vllms.pids()) == 2, START)
        assert not adapter_files(victim), "the actor that took its place removes them"
        assert adapter_files(other)
        last = place_of(engine.replicas()[0].group).pid
        assert adapter_files(last)
        os.kill(other, signal.SIGKILL)
        wait_until(lambda: not is_running(other), START)
    assert not any(adapter_files(pid) for pid in (victim, other, last)), "they end with the server"


def test_a_trainer_that_comes_back_scores_with_the_adapters_that_it_had(
    cluster: LocalCluster, vllms: Vllms, tmp_path: Path
) -> None:
    with on_ray(cluster, vllms.python, samplers=1) as engine:
        engine.both.ready.result(START)
        alone = train_and_load(engine, tmp_path)
        losses: list[EngineExit] = []

        def go_on(loss: EngineExit) -> None:
            losses.append(loss)
            assert loss.resume
            loss.resume()

        engine.ray.watch(go_on)
        os.kill(place_of(trainer_of(engine.ray, BASE)).pid, signal.SIGKILL)
        wait_until(lambda: bool(losses), START)
        scoring = SampleSpec([5, 6, 7], 1, 1, prompt_logprobs=True)
        assert engine.sample("s", scoring).result(START) == alone.sample("s", scoring).result()
        assert losses[0].base_model == BASE


def test_a_node_that_is_killed_takes_no_sample_of_a_client(
    cluster: LocalCluster, vllms: Vllms
) -> None:
    with ExitStack() as stack:
        cluster.add_node(4)  # so that there is room afterwards
        engine = stack.enter_context(on_ray(cluster, vllms.python, samplers=5))
        server = stack.enter_context(tinkex.local.serve(engine=engine.both))
        server.ready.result(START)
        service = stack.enter_context(ServiceClient(server.base_url, "tml-test"))
        trainer = service.create_lora_training_client(BASE, rank=4)
        trainer.forward_backward([datum(5, 6)], "cross_entropy").result(START)
        trainer.optim_step(AdamParams()).result(START)
        sampler = trainer.save_weights_and_get_sampling_client()
        how = {"max_tokens": 8, "seed": 3}
        known = sampler.sample([1], 1, how).result(START).sequences[0].tokens
        wait_until(lambda: engine.loaded() == 5, START)
        before = set(vllms.pids())
        samples = [sampler.sample([1], 1, how) for _ in range(40)]
        places = [place_of(each.group).node for each in engine.replicas()]
        trains = place_of(trainer_of(engine.ray, BASE)).node
        cluster.kill_node(cluster.node_with(next(node for node in places if node != trains)))
        samples += [sampler.sample([1], 1, how) for _ in range(40)]
        assert all(each.result(START).sequences[0].tokens == known for each in samples)
        scores = sampler.compute_logprobs([1, 2, 3]).result(START)
        assert len(scores) == 3
        wait_until(lambda: engine.loaded() == 5 and set(vllms.pids()) != before, START)
        wait_until(lambda: len(vllms.pids()) == 5, START)


def test_trainers_on_a_cluster_are_sampled_by_vllms_that_are_somewhere_else(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    with running_vllm() as fake:
        settings = VllmSettings(urls=[fake.url])
        ray = RayEngine(
            {BASE: partial(PeftNamedEngine, [BASE])},
            PeftNamedEngine([BASE]).base_models,
            RaySettings(address=cluster.address),
            vllm=VllmOnRay(settings=settings, factories={}),
        )
        both = with_vllm(ray, [f"{BASE}={tmp_path}"], settings)
        try:
            assert "1 sampler" not in both.ready.result(START), "no actor samples"
            alone = PeftNamedEngine([BASE])
            for each, place in ((both, tmp_path / "there"), (alone, tmp_path / "here")):
                each.create_model("m", BASE, LoraShape(4))
                each.save_model("m", place, optimizer=False)
                each.load_sampler("s", BASE, place)
            spec = evolve(SPEC, prompt_logprobs=True)
            found, wanted = both.sample("s", spec), alone.sample("s", as_vllm_sees(spec))
            assert sequences(found) == sequences(wanted)
            assert found.result().prompt_logprobs == wanted.result().prompt_logprobs
        finally:
            both.close()


def test_a_vllm_that_cannot_start_says_why(cluster: LocalCluster, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'ValueError: no such device'\nexit 3\n")
    python.chmod(0o755)
    with (
        on_ray(cluster, str(python)) as engine,
        pytest.raises(EngineDied, match="vLLM ended with exit code 3: ValueError: no such device"),
    ):
        engine.both.ready.result(START)

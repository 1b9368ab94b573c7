"""The engine on a Ray cluster, with cheap engines in its actors: what it forwards, and what happens
when actors are lost, hang, or have no room.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("ray", reason="ray is not installed: `make test-ray` tests with it")

from tests.support.batches import example
from tests.support.killable_engine import (
    BASES,
    BREAKS,
    EXITS,
    WAITS,
    FillingEngine,
    KillableEngine,
    cannot_be_made,
    does_not_start,
)
from tests.support.ray_cluster import LocalCluster, place_of, samplers_of, trainer_of
from tests.support.wait_until import wait_until
from tinkex_server.engine.fake import FakeEngine
from tinkex_server.engine.interface import (
    AdamSettings,
    EngineDied,
    EngineExit,
    InvalidRequest,
    LoraShape,
    SampleResult,
    SampleSpec,
)
from tinkex_server.engine.process.hang_detector import HangTimeouts
from tinkex_server.engine.ray.engine import RayEngine
from tinkex_server.engine.ray.settings import RaySettings
from tinkex_server.engine.remote_errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

BASE, OTHER = "fake/base", "fake/other"
ADAM = AdamSettings()
LORA = LoraShape(4)
SPEC = SampleSpec([5, 6], max_tokens=4)
START = 120  # seconds; a crowded machine takes long to start a process


@contextmanager
def engine_on(cluster: LocalCluster, *, samplers: int = 1, **options: Any) -> Iterator[RayEngine]:
    settings = RaySettings(address=cluster.address, samplers=samplers)
    factories = options.pop("factories", {BASE: KillableEngine})
    bases = options.pop("bases", BASES)
    engine = RayEngine(factories, bases, settings, pauses=(0, 0), **options)
    try:
        yield engine
    finally:
        engine.close()


@pytest.fixture
def engine(cluster: LocalCluster) -> Iterator[RayEngine]:
    with engine_on(cluster) as engine:
        engine.ready.result(START)
        yield engine


@pytest.fixture
def deaths(engine: RayEngine) -> SimpleQueue[EngineExit]:
    deaths: SimpleQueue[EngineExit] = SimpleQueue()
    engine.watch(deaths.put)
    return deaths


def step(engine: RayEngine, token: int, model: str = "m") -> float:
    return engine.forward_backward(
        model, [example(token)], "cross_entropy", {}, backward=True
    ).metrics["loss:sum"]


def sampled(engine: RayEngine, sampler: str) -> Sequence[int]:
    result = engine.sample(sampler, SPEC).result(START)
    assert isinstance(result, SampleResult)
    return result.sequences[0].tokens


def test_it_gives_what_the_engine_in_its_actors_gives(engine: RayEngine, tmp_path: Path) -> None:
    alone = FakeEngine([BASE])
    for each in (engine, alone):
        each.create_model("m", BASE, LORA)
        each.forward_backward("m", [example(5, 6)], "cross_entropy", {}, backward=True)
    assert engine.optim_step("m", ADAM) == {**alone.optim_step("m", ADAM), "given_up": 0}
    folders = [tmp_path / "on_ray", tmp_path / "alone"]
    for each, folder in zip((engine, alone), folders, strict=True):
        each.save_model("m", folder, optimizer=True)
        each.load_sampler("s", BASE, folder)
    there, here = (
        {file.name: file.read_bytes() for file in folder.iterdir()} for folder in folders
    )
    assert there == here
    assert engine.sample("s", SPEC).result(START) == alone.sample("s", SPEC).result()
    targets = SampleSpec([5, 6], max_tokens=1, target_prompt_tokens=np.array([[6, 7]]))
    scored, wanted = engine.sample("s", targets).result(START), alone.sample("s", targets).result()
    np.testing.assert_array_equal(scored.target_prompt_logprobs, wanted.target_prompt_logprobs)
    step(engine, 7)
    engine.load_model("m", folders[0], optimizer=True)
    engine.check_loss(None)  # type: ignore[arg-type]  # the fake accepts any
    engine.unload_model("m")
    with pytest.raises(InvalidRequest, match="unknown model 'm'"):
        step(engine, 5)


def test_an_adapter_of_another_program_is_imported(engine: RayEngine, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", "README.md"):
        (source / name).write_text(name)
    engine.import_adapter(BASE, LORA, source, tmp_path / "saved")
    engine.load_sampler("s", BASE, tmp_path / "saved")
    FakeEngine([BASE]).import_adapter(BASE, LORA, source, tmp_path / "wanted")
    [wanted], [saved] = (list((tmp_path / name).iterdir()) for name in ("wanted", "saved"))
    assert saved.read_bytes() == wanted.read_bytes()


def test_errors_keep_their_texts(engine: RayEngine) -> None:
    engine.create_model("m", BASE, LORA)
    with pytest.raises(InvalidRequest, match="unknown base model 'none'; this server has fake/ba"):
        engine.create_model("x", "none", LORA)
    with pytest.raises(InvalidRequest, match="unknown sampler 'none'"):
        engine.sample("none", SPEC).result(START)
    with pytest.raises(InvalidRequest, match="saved weights were deleted, or another engine"):
        engine.load_sampler("s", BASE, Path("/none"))
    with pytest.raises(EngineError, match="ZeroDivisionError: the fake broke") as caught:
        step(engine, BREAKS)
    assert "killable_engine.py" in caught.value.__notes__[0], "the log has the trace of the actor"


def test_tokens_arrive_while_a_sample_goes_on_and_a_cancelled_one_ends(engine: RayEngine) -> None:
    engine.load_sampler("s", BASE, None)
    tokens: SimpleQueue[tuple[int, float]] = SimpleQueue()
    result = engine.sample("s", SPEC, lambda *token: tokens.put(token)).result(START)
    [sequence] = result.sequences
    streamed = [tokens.get_nowait() for _ in sequence.tokens]
    assert streamed == list(zip(sequence.tokens, sequence.logprobs, strict=True))
    assert tokens.empty()
    endless = engine.sample("s", SampleSpec([WAITS]), lambda *token: tokens.put(token))
    silent = engine.sample("s", SampleSpec([WAITS]))
    assert tokens.get(timeout=START) == (1, -1.0), "the first token of a sample without an end"
    [sampler] = samplers_of(engine, BASE)
    for sample in (endless, silent):
        assert sample.cancel()
        with pytest.raises(CancelledError):
            sample.result(START)

    def given_up() -> int:
        told = asyncio.run_coroutine_threadsafe(
            sampler.call("call", "count_given_up", (), {}), engine._loop
        )
        return told.result(START)

    wait_until(lambda: given_up() == 2, START)


def test_a_lost_trainer_takes_the_models_of_its_base_model_and_nothing_else(
    cluster: LocalCluster,
) -> None:
    bases = FakeEngine([BASE, OTHER]).base_models
    factories = {BASE: KillableEngine, OTHER: partial(FakeEngine, [OTHER])}
    with (
        engine_on(cluster, factories=factories, bases=bases) as engine,
        ThreadPoolExecutor(1) as pool,
    ):
        engine.ready.result(START)
        engine.create_model("m", BASE, LORA)
        engine.create_model("other", OTHER, LORA)
        engine.load_sampler("s", BASE, None)
        known = sampled(engine, "s")
        step(engine, 5, "other")
        deaths: SimpleQueue[EngineExit] = SimpleQueue()
        engine.watch(deaths.put)
        waiting = pool.submit(step, engine, WAITS)
        time.sleep(0.5)  # for the batch to be in the engine
        killed = place_of(trainer_of(engine, BASE))
        os.kill(killed.pid, signal.SIGKILL)
        death = deaths.get(timeout=START)
        assert death.base_model == BASE
        assert re.match(
            rf"the trainer of fake/base was lost \(ip [\d.]+, pid {killed.pid}\): its worker "
            r"process has died.*, and is being made anew$",
            death.reason,
        )
        assert not waiting.done(), "it must not be asked again before the loss was handled"
        assert death.resume
        death.resume()
        with pytest.raises(EngineDied, match=re.escape(death.reason)):
            waiting.result(START)
        assert engine.optim_step("other", ADAM)["grad_norm"] > 0, "the other's gradient is there"
        assert sampled(engine, "s") == known
        engine.create_model("m", BASE, LORA)
        step(engine, 5)


def test_a_lost_sampler_loses_no_sample_and_comes_back_with_its_adapters(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    with engine_on(cluster, samplers=2) as engine:
        engine.ready.result(START)
        wait_until(lambda: len(samplers_of(engine, BASE)) == 2, START)
        engine.create_model("m", BASE, LORA)
        step(engine, 5)
        engine.optim_step("m", ADAM)
        engine.save_model("m", tmp_path / "saved", optimizer=False)
        engine.load_sampler("s", BASE, tmp_path / "saved")
        known = sampled(engine, "s")
        pool = engine._samplers.pools[BASE]
        wait_until(lambda: all(replica.has for replica in pool._replicas), START)
        waiting = [engine.sample("s", SampleSpec([WAITS])) for _ in range(4)]
        wait_until(lambda: [replica.running for replica in pool._replicas] == [2, 2])
        place = place_of(pool._replicas[0].group)
        os.kill(place.pid, signal.SIGKILL)
        wait_until(lambda: [replica.running for replica in pool._replicas] == [0, 4], START)
        assert sampled(engine, "s") == known, "the other one goes on"
        wait_until(lambda: len(pool._replicas[0].has) == 1, START)
        assert place_of(pool._replicas[0].group).pid != place.pid
        os.kill(place_of(pool._replicas[1].group).pid, signal.SIGKILL)
        assert sampled(engine, "s") == known, "by the one that came back"
        wait_until(lambda: sum(replica.running for replica in pool._replicas) == 4, START)
        for sample in waiting:
            assert sample.cancel(), "none of them has failed"


def test_a_stream_that_has_begun_fails_with_its_sampler_by_name(engine: RayEngine) -> None:
    engine.load_sampler("s", BASE, None)
    tokens: SimpleQueue[tuple[int, float]] = SimpleQueue()
    begun = engine.sample("s", SampleSpec([WAITS]), lambda *token: tokens.put(token))
    tokens.get(timeout=START)
    os.kill(place_of(samplers_of(engine, BASE)[0]).pid, signal.SIGKILL)
    with pytest.raises(
        EngineDied,
        match=r"streamed sample was lost after 1 tokens: ask for it again \(sampler 1 of fake/base",
    ):
        begun.result(START)


def test_a_sample_that_ends_its_samplers_is_not_asked_for_for_ever(cluster: LocalCluster) -> None:
    with engine_on(cluster, samplers=2) as engine:
        engine.ready.result(START)
        engine.load_sampler("s", BASE, None)
        with pytest.raises(EngineDied, match=r"lost 3 times, and is not asked for again: sampler"):
            engine.sample("s", SampleSpec([EXITS])).result(START)


def test_samples_do_not_wait_for_weights_that_no_successor_can_load(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    full = tmp_path / "full"
    with engine_on(cluster, factories={BASE: partial(FillingEngine, full)}) as engine:
        engine.ready.result(START)
        engine.load_sampler("s", BASE, None)
        waiting = engine.sample("s", SampleSpec([WAITS]))
        pool = engine._samplers.pools[BASE]
        wait_until(lambda: pool._replicas[0].running == 1)
        full.touch()
        os.kill(place_of(samplers_of(engine, BASE)[0]).pid, signal.SIGKILL)
        for sample in (waiting, engine.sample("s", SPEC)):
            with pytest.raises(EngineDied, match=r"could load these weights again: .*no room"):
                sample.result(START)
        full.unlink()
        engine.load_sampler("s", BASE, None)
        assert sampled(engine, "s")


def test_samples_under_way_keep_the_weights_that_are_replaced(
    engine: RayEngine, tmp_path: Path
) -> None:
    engine.create_model("m", BASE, LORA)
    engine.save_model("m", tmp_path / "before", optimizer=False)
    engine.load_sampler("s", BASE, tmp_path / "before")
    before = sampled(engine, "s")
    under_way = engine.sample("s", SampleSpec([WAITS]))
    pool = engine._samplers.pools[BASE]
    wait_until(lambda: pool._replicas[0].running == 1)
    step(engine, 5)
    engine.optim_step("m", ADAM)
    engine.save_model("m", tmp_path / "after", optimizer=False)
    engine.load_sampler("s", BASE, tmp_path / "after")
    assert sampled(engine, "s") != before
    assert len(pool._replicas[0].has) == 2, "the sample under way needs the weights before"
    under_way.cancel()
    wait_until(lambda: len(pool._replicas[0].has) == 1)
    engine.unload_sampler("s")
    wait_until(lambda: not pool._replicas[0].has)
    with pytest.raises(InvalidRequest, match="unknown sampler 's'"):
        engine.sample("s", SPEC).result(START)


def test_an_actor_that_hangs_is_lost(cluster: LocalCluster) -> None:
    with (
        engine_on(cluster, hang_timeouts=HangTimeouts(silent=4.0)) as engine,
        ThreadPoolExecutor(1) as pool,
    ):
        engine.ready.result(START)
        engine.create_model("m", BASE, LORA)
        stopped = place_of(trainer_of(engine, BASE)).pid
        os.kill(stopped, signal.SIGSTOP)
        try:
            with pytest.raises(EngineDied, match="sent no heartbeat for 4 s while calls waited"):
                pool.submit(step, engine, 5).result(START)
        finally:
            os.kill(stopped, signal.SIGKILL)


def test_what_cannot_start_says_why(cluster: LocalCluster) -> None:
    with engine_on(cluster, factories={BASE: cannot_be_made}) as engine:
        with pytest.raises(EngineDied, match="could not start: there is no folder /none"):
            engine.ready.result(START)
        with pytest.raises(EngineDied, match="could not start: there is no folder /none"):
            engine.create_model("m", BASE, LORA)
    with (
        engine_on(cluster, factories={BASE: does_not_start}) as engine,
        pytest.raises(
            EngineDied, match=r"was lost .*: its worker process has died.* before it was"
        ),
    ):
        engine.ready.result(START)


def test_a_cluster_that_is_not_there_is_named() -> None:
    import ray

    assert not ray.is_initialized()
    engine = RayEngine(
        {BASE: KillableEngine}, BASES, RaySettings(address="not an address"), pauses=()
    )
    with pytest.raises(EngineDied, match=r"could not start: .*not an address"):
        engine.ready.result(START)
    engine.close()


def test_a_closed_engine_leaves_no_call_waiting_and_no_actor(cluster: LocalCluster) -> None:
    with engine_on(cluster) as engine, ThreadPoolExecutor(1) as pool:
        engine.ready.result(START)
        engine.create_model("m", BASE, LORA)
        engine.load_sampler("s", BASE, None)
        pids = [place_of(trainer_of(engine, BASE)).pid]
        pids += [place_of(sampler).pid for sampler in samplers_of(engine, BASE)]
        calls = [pool.submit(step, engine, WAITS), engine.sample("s", SampleSpec([WAITS]))]
        time.sleep(0.5)  # for both to be in the engine
        engine.close()
        for call in calls:
            with pytest.raises(EngineDied, match="the engine was closed"):
                call.result(START)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), START)

"""Training runs that outlive their models, over real sockets, through both facades."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from threading import Timer
from typing import Any

import httpx
import pytest
from attrs import evolve

import tinkex.local
from tests.support.batches import datum
from tests.support.counting_engine import ROOT, CountingEngine, Process, process
from tests.support.facades import steps_of
from tests.support.faulty_proxy import faulty
from tests.support.wait_until import wait_until
from tinkex import (
    AdamParams,
    AsyncTrainingClient,
    Config,
    InvalidInputError,
    NotFoundError,
    RecoveryFailedError,
    RecoveryPolicy,
    RequestFailedError,
    RetrySettings,
    ServerStateLostError,
    StepOutcomeUnknown,
    TinkexError,
    UnsupportedByServer,
)
from tinkex.dialects.table import DIALECTS
from tinkex.local import Server
from tinkex.training import creation, unloading

LOST = StepOutcomeUnknown("who knows")
EVERY_4 = RecoveryPolicy(save_every_steps=4, save_every_minutes=None)


@pytest.fixture(scope="module")
def engine() -> CountingEngine:
    return CountingEngine()


@pytest.fixture(scope="module")
def counting(engine: CountingEngine) -> Iterator[Server]:
    with tinkex.local.serve(engine=engine) as server:
        yield server


@pytest.fixture
def killable(tmp_path: Path) -> Iterator[Process]:
    with process(tmp_path / "data") as server:
        yield server


def quick(base_url: str, attempts: int = 10, **settings: Any) -> Config:
    retry = RetrySettings(max_attempts=attempts, base_delay=0.05, max_delay=0.2)
    return Config(base_url=base_url, retry=retry, **settings)


def begin(
    connect: Callable[..., Any], base_url: str, policy: RecoveryPolicy = EVERY_4, **settings: Any
) -> tuple[Any, Any]:
    """A service client, and a run of its."""
    service = connect(base_url, config=quick(base_url, **settings))
    return service, service.create_recoverable_run(
        service.create_lora_training_client("fake/base", rank=4), policy
    )


def train(
    run: Any, until: int, disturb: Callable[[int], None] = lambda step: None
) -> tuple[dict[int, float], list[tuple[int, int]]]:
    """A researcher's loop: the losses by step, and from where to where the run went back. `disturb`
    is called while a step is under way.
    """
    losses: dict[int, float] = {}
    went_back: list[tuple[int, int]] = []
    for step in steps_of(run, until):
        try:
            under_way = run.trainer.train_step([datum(1)], "cross_entropy", AdamParams())
            disturb(step)
            losses[step] = under_way.result().forward_backward.metrics["loss:sum"]
        except TinkexError as error:
            went_back.append((step, run.recover(error)))
    return losses, went_back


def once_at(step: int, act: Callable[[], None]) -> Callable[[int], None]:
    done: list[int] = []

    def disturb(now: int) -> None:
        if now == step and not done:
            done.append(now)
            act()

    return disturb


def each_step_once(until: int) -> dict[int, float]:
    """The losses of an engine that counts the steps behind each model: what an undisturbed run
    has.
    """
    return {step: float(step) for step in range(until)}


def test_an_undisturbed_run_takes_each_step_once(
    connect: Callable[..., Any], counting: Server
) -> None:
    _, run = begin(connect, counting.base_url)
    assert train(run, 6) == (each_step_once(6), [])
    assert train(run, 10) == ({6: 6.0, 7: 7.0, 8: 8.0, 9: 9.0}, [])  # it goes on where it was
    assert (run.step, run.recoveries) == (10, 0)


def test_a_run_survives_kill_9_of_its_server(
    connect: Callable[..., Any], killable: Process
) -> None:
    _, run = begin(connect, killable.base_url)
    first_model = run.trainer.model_id

    def kill() -> None:
        killable.kill()
        killable.start()

    losses, went_back = train(run, 15, once_at(10, kill))
    assert losses == each_step_once(15)
    [(failed, back)] = went_back
    assert failed == 10
    assert back in (4, 8)  # the save before step 8 may not have counted yet
    assert run.trainer.model_id != first_model


@pytest.mark.parametrize("until", [8, 10])
def test_a_server_that_dies_after_the_last_step_is_recovered_from_before_the_loop_ends(
    connect: Callable[..., Any], killable: Process, until: int
) -> None:
    """A save is due after step 8 and not after step 10."""
    _, run = begin(connect, killable.base_url)
    losses: dict[int, float] = {}
    killed = False
    for step in steps_of(run, until):
        try:
            done = run.trainer.train_step([datum(1)], "cross_entropy", AdamParams())
            losses[step] = done.result().forward_backward.metrics["loss:sum"]
        except TinkexError as error:
            run.recover(error)
        if step == until - 1 and not killed:
            killed = True
            killable.kill()
            killable.start()
    assert losses == each_step_once(until)
    assert run.recoveries == 1
    assert run.trainer.save_state("final").result().path
    after = run.trainer.train_step([datum(1)], "cross_entropy", AdamParams()).result()
    assert after.forward_backward.metrics["loss:sum"] == float(until), (
        "all steps are behind the model"
    )


def test_a_loop_that_sends_steps_ahead_misses_no_result(
    connect: Callable[..., Any], killable: Process
) -> None:
    _, run = begin(connect, killable.base_url, RecoveryPolicy(save_every_steps=2))

    def kill() -> None:
        killable.kill()
        killable.start()

    disturb, losses, sent = once_at(8, kill), dict[int, float](), deque[tuple[int, Any]]()
    for step in steps_of(run, 12):
        try:
            sent.append((step, run.trainer.train_step([datum(1)], "cross_entropy", AdamParams())))
            disturb(step)
            while len(sent) > (2 if step < 11 else 0):
                losses[sent[0][0]] = sent[0][1].result().forward_backward.metrics["loss:sum"]
                sent.popleft()
        except TinkexError as error:
            run.recover(error, sent[0][0])
            sent.clear()
    assert losses == each_step_once(12)
    assert run.recoveries == 1


@pytest.mark.slow
def test_a_run_survives_two_kills_and_a_server_that_is_away_for_a_while(
    connect: Callable[..., Any], killable: Process
) -> None:
    _, run = begin(connect, killable.base_url)
    away: list[float] = []

    def kill() -> None:
        killable.kill()
        away.append(time.monotonic())
        Timer(1.0, killable.start).start()

    first, second = once_at(2, kill), once_at(6, kill)
    losses, went_back = train(run, 9, lambda step: (first(step), second(step), None)[-1])
    assert losses == each_step_once(9)
    assert [failed for failed, _ in went_back] == [2, 6]
    assert len(away) == 2


@pytest.mark.rule(16)
def test_a_server_that_has_forgotten_the_session_gets_a_new_one(
    connect: Callable[..., Any], killable: Process
) -> None:
    service, run = begin(connect, killable.base_url, attempts=200)  # a busy machine starts it late
    old = run.trainer

    def forget() -> None:
        killable.kill()
        with closing(sqlite3.connect(killable.data_dir / "tinkex.db")) as db:
            # what was made in it is still somebody's
            for table in ("sessions", "models", "samplers"):
                db.execute(f"UPDATE {table} SET session_id = session_id || ' of old'")
            db.commit()
        killable.start()

    losses, went_back = train(run, 12, once_at(9, forget))
    assert losses == each_step_once(12)
    assert len(went_back) == 1
    assert run.trainer.model_id.partition(":")[0] != old.model_id.partition(":")[0]
    with pytest.raises(ServerStateLostError, match=r"session .* any more"):
        old.forward([datum(1)], "cross_entropy").result()
    assert service.create_sampling_client(base_model="fake/base").sample([1, 2]).result().sequences


@pytest.mark.rule(16)
def test_a_session_that_was_finished_is_found_out_by_its_heartbeat(
    connect: Callable[..., Any], counting: Server
) -> None:
    service = connect(counting.base_url, config=quick(counting.base_url, heartbeat_interval=0.05))
    trainer = service.create_lora_training_client("fake/base", rank=4)
    session_id = trainer.model_id.partition(":")[0]
    httpx.post(
        f"{counting.base_url}/api/v1/sessions/{session_id}/finish",
        json={"reason": {"type": "success"}, "detail": None},
    )
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with pytest.raises((ServerStateLostError, NotFoundError)) as caught:
            trainer.forward([datum(1)], "cross_entropy").result()
        if isinstance(caught.value, ServerStateLostError):
            break
    assert isinstance(caught.value, ServerStateLostError)
    again = service.create_lora_training_client("fake/base", rank=4)
    assert again.model_id.partition(":")[0] != session_id
    assert again.forward([datum(1)], "cross_entropy").result().loss_fn_outputs


def test_a_step_of_unknown_outcome_goes_back_a_few_steps_and_frees_the_old_model(
    connect: Callable[..., Any],
    counting: Server,
    engine: CountingEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tinkex_server.routes import server as routes

    monkeypatch.setattr(routes.FLAGS, "seq_id_repeats", "unknown")
    with faulty(counting.base_url) as proxy:
        service = connect(proxy.base_url, config=quick(proxy.base_url))
        trainer = service.create_lora_training_client("fake/base", rank=4)
        # the proxy passes no DELETE on
        run = service.create_recoverable_run(trainer, RecoveryPolicy(save_every_steps=4, keep=9))
        losses, went_back = train(
            run, 12, once_at(6, lambda: proxy.faults.append(("optim_step", "answer lost")))
        )
        assert losses == each_step_once(12)
        assert len(went_back) == 1
        assert went_back[0][0] - went_back[0][1] <= 4
        assert engine.count("unload_model", trainer.model_id) == 1


def test_an_error_of_the_user_is_not_recovered_from(
    connect: Callable[..., Any], counting: Server
) -> None:
    _, run = begin(connect, counting.base_url)
    with pytest.raises(InvalidInputError):
        run.trainer.train_step([], "cross_entropy", AdamParams())
    failed = run.trainer.train_step([datum(99)], "cross_entropy", AdamParams())
    with pytest.raises(RequestFailedError, match="token 99") as caught:
        failed.result()
    with pytest.raises(RequestFailedError, match="token 99") as again:
        run.recover(caught.value)
    assert again.value is caught.value
    assert (run.step, run.recoveries) == (0, 0)


def test_a_fault_that_recurs_ends_the_run(connect: Callable[..., Any], counting: Server) -> None:
    _, run = begin(connect, counting.base_url, RecoveryPolicy(save_every_steps=4, give_up_after=3))
    fault: list[TinkexError] = []

    def train_in_vain() -> None:
        for _ in steps_of(run, 3):
            try:
                run.trainer.train_step([datum(98)], "cross_entropy", AdamParams()).result()
            except TinkexError as error:
                fault.append(error)
                run.recover(error)

    with pytest.raises(RecoveryFailedError, match="3 recoveries") as caught:
        train_in_vain()
    assert len(fault) == 4
    assert caught.value.__cause__ is fault[-1]


def names_on(service: Any, model_id: str) -> list[str]:
    return [
        kept.checkpoint_id
        for kept in service.create_rest_client().list_checkpoints(model_id).checkpoints
    ]


def test_only_the_newest_checkpoints_are_kept(
    connect: Callable[..., Any], counting: Server
) -> None:
    service, run = begin(connect, counting.base_url, RecoveryPolicy(save_every_steps=2, keep=3))
    train(run, 12)
    kept = names_on(service, run.trainer.model_id)
    assert [re.fullmatch(r"weights/step-(\d{6})-[0-9a-f]{8}", name)[1] for name in kept] == [
        "000012",
        "000010",
        "000008",
    ]  # type: ignore[index]


def test_checkpoints_are_kept_where_the_server_cannot_delete(
    connect: Callable[..., Any], counting: Server
) -> None:
    dialect = evolve(DIALECTS["tinkex"], missing={"delete_checkpoint": ""})
    service, run = begin(
        connect, counting.base_url, RecoveryPolicy(save_every_steps=2, keep=1), dialect=dialect
    )
    train(run, 6)
    assert len(names_on(service, run.trainer.model_id)) == 4
    assert run.recover(LOST) == 6


def test_a_deleted_checkpoint_is_skipped_for_the_one_before_it(
    connect: Callable[..., Any], counting: Server
) -> None:
    service, run = begin(connect, counting.base_url)
    train(run, 9)
    model_id = run.trainer.model_id
    newest = names_on(service, model_id)[0]
    assert newest.startswith("weights/step-000009-"), "the state after the last step"
    service.create_rest_client().delete_checkpoint(model_id, newest)
    assert run.recover(LOST) == 8
    assert train(run, 9) == ({8: 8.0}, [])


def test_with_no_checkpoint_left_the_run_ends_and_says_so(
    connect: Callable[..., Any], counting: Server
) -> None:
    service, run = begin(connect, counting.base_url)
    model_id = run.trainer.model_id
    for name in names_on(service, model_id):
        service.create_rest_client().delete_checkpoint(model_id, name)
    with pytest.raises(RecoveryFailedError, match="there is no checkpoint"):
        run.recover(LOST)


def test_a_server_that_keeps_no_state_is_refused_at_once(
    connect: Callable[..., Any], counting: Server
) -> None:
    instead = {"load_weights": DIALECTS["arctic"].missing["load_weights"]}
    dialect = evolve(DIALECTS["tinkex"], resume="never", missing=instead)
    with pytest.raises(UnsupportedByServer, match="start again"):
        begin(connect, counting.base_url, dialect=dialect)


def test_a_model_that_could_not_be_loaded_is_freed_again(
    connect: Callable[..., Any], counting: Server, engine: CountingEngine
) -> None:
    dialect = evolve(DIALECTS["tinkex"], resume="load_first")
    service = connect(counting.base_url, config=quick(counting.base_url, dialect=dialect))
    before = engine.count("unload_model")
    with pytest.raises(RequestFailedError, match="there is no checkpoint"):
        service.create_training_client_from_state(
            "tinker://s-0:train:0/weights/none", "fake/base", rank=4
        )
    # nobody waits for the end of it
    wait_until(lambda: engine.count("unload_model") > before)
    assert engine.count("unload_model") == before + 1


def test_a_server_that_loses_the_new_model_too_is_recovered_from(
    connect: Callable[..., Any], counting: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one that is restarted between the creation of the model and its load, which then
    fails with 404, as for a missing checkpoint.
    """
    dialect = evolve(DIALECTS["tinkex"], resume="load_first")
    _, run = begin(connect, counting.base_url, dialect=dialect)
    losses, _ = train(run, 5)
    made: list[str] = []

    async def lost_at_first(*args: Any) -> AsyncTrainingClient:
        client = await new_model(*args)
        made.append(client.model_id)
        if len(made) == 1:
            await unload(client._transport, client.model_id)
        return client

    new_model, unload = creation.new_model, unloading.unload
    monkeypatch.setattr(creation, "new_model", lost_at_first)
    monkeypatch.setattr("tinkex.recovery.decisions._FIRST_PAUSE", 0.01)
    assert run.recover(LOST) == 5
    assert len(made) == 2
    assert {**losses, **train(run, 8)[0]} == each_step_once(8)


@pytest.mark.slow
def test_the_example_survives_the_death_of_its_server_with_the_same_losses() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "survives_kill.py")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the same, bit for bit" in done.stdout
    assert "training continues with step 8" in done.stderr

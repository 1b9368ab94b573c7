"""Loads are checked by the logprobs of the loaded model, and the check changes nothing; over
sockets, in both facades.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from tests.support.faulty_proxy import Faulty, Instead, faulty
from tests.support.whole_job import ADAM, BATCH, loss_of
from tinkex import (
    CheckpointMismatchError,
    Config,
    Dialect,
    RecoveryFailedError,
    RecoveryPolicy,
    RequestSkippedError,
    RetrySettings,
    StepOutcomeUnknown,
    TinkexError,
)
from tinkex.dialects.table import DIALECTS
from tinkex.local import serve
from tinkex.training.fingerprint import MAX_TOKENS, NO_FINGERPRINT, are_taken, shortened
from tinkex.types import Datum, ModelInput
from tinkex_server.engine.fake import FakeEngine
from tinkex_server.engine.interface import Engine
from tinkex_server.engine.torch.engine import TorchEngine

TINY = "tinkex/tiny"
PROVED: Mapping[str, Any] = {"dialect": "tinkex", "verify_checkpoints": True}


class Lies:
    """The control of an engine that loads what it is told to, or silently another checkpoint."""

    instead: str | None = None
    """The name of the one that it loads."""

    def load_model(self, model_id: str, folder: Path, *, optimizer: bool) -> None:
        if self.instead is not None:
            [folder] = folder.parent.glob(f"{self.instead}.*")
        super().load_model(model_id, folder, optimizer=optimizer)


class Lying(Lies, FakeEngine):
    """A lying engine whose logprobs differ with each step, which is all that most tests need."""


class LyingTorch(Lies, TorchEngine):
    """A lying engine with an optimizer, and with the rounding of real logprobs."""


@pytest.fixture
def engine() -> Lying:
    return Lying([TINY])


@pytest.fixture(scope="module")
def lying_torch() -> LyingTorch:
    return LyingTorch([TINY])


@pytest.fixture
def torch_engine(lying_torch: LyingTorch) -> Iterator[LyingTorch]:
    yield lying_torch
    lying_torch.instead = None


@pytest.fixture
def begin(connect: Callable[..., Any], engine: Lying) -> Iterator[Callable[..., Any]]:
    """Makes a service client of a server of a profile, behind a proxy that counts and can break
    requests.
    """
    yield from beginning(connect, engine)


@pytest.fixture
def begin_on_torch(
    connect: Callable[..., Any], torch_engine: LyingTorch
) -> Iterator[Callable[..., Any]]:
    """The same, with an engine that really trains."""
    yield from beginning(connect, torch_engine)


def beginning(connect: Callable[..., Any], engine: Engine) -> Iterator[Callable[..., Any]]:
    with ExitStack() as stack:

        def begin(profile: str, **settings: Any) -> tuple[Any, Faulty]:
            server = stack.enter_context(serve(engine=engine, profile=profile, hold=0.5))
            proxy = stack.enter_context(faulty(server.base_url))
            given: dict[str, Any] = {"dialect": profile, "base_url": proxy.base_url, **settings}
            config = Config(**given, retry=RetrySettings(base_delay=0.01, max_delay=0.01))
            return connect(proxy.base_url, config=config), proxy

        yield begin


def new(service: Any) -> Any:
    return service.create_lora_training_client(TINY, rank=8, seed=1)


def train(trainer: Any, steps: int = 1) -> None:
    for _ in range(steps):
        trainer.forward_backward(BATCH, "cross_entropy").result()
        trainer.optim_step(ADAM).result()


def loss(trainer: Any) -> float:
    return loss_of(BATCH, trainer.forward(BATCH, "cross_entropy").result())


def two_saves(service: Any) -> tuple[Any, str, str]:
    """A model, and the paths of two states of it that are five steps apart."""
    trainer = new(service)
    train(trainer)
    first = trainer.save_state("first").result().path
    train(trainer, 5)
    return trainer, first, trainer.save_state("second").result().path


def created(name: str) -> Callable[[Any, Any, str], Any]:
    return lambda service, _, path: getattr(service, name)(path, base_model=TINY, rank=8)


def loaded(name: str) -> Callable[[Any, Any, str], Any]:
    return lambda _, trainer, path: getattr(trainer, name)(path).result()


DOORS: Mapping[str, Callable[[Any, Any, str], Any]] = {
    name: (created if name.startswith("create") else loaded)(name)
    for name in (
        *("load_state", "load_state_with_optimizer"),
        *("create_training_client_from_state", "create_training_client_from_state_with_optimizer"),
    )
}
KINDS: Mapping[str, Mapping[str, Any]] = {
    "tinkex": PROVED,  # by session
    "mlx-tinker": {},  # by a load as the first request
    "skyrl-0.3": {"verify_checkpoints": True},  # which runs what is no batch before batches
}


# ---- other weights ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("door", DOORS)
def test_a_load_of_other_weights_is_an_error_by_name(
    begin: Callable[..., Any], engine: Lying, kind: str, door: str
) -> None:
    if kind == "skyrl-0.3" and "optimizer" not in door:
        pytest.skip("it has no load without the optimizer")
    service, proxy = begin(kind, **KINDS[kind])
    trainer, _, path = two_saves(service)
    DOORS[door](service, trainer, path)
    engine.instead = "first"
    with pytest.raises(CheckpointMismatchError, match=path) as caught:
        DOORS[door](service, trainer, path)
    error = caught.value
    assert (error.path, error.fault, error.retryable, error.operation) == (
        path,
        "server",
        False,
        "load_weights",
    )
    assert len(error.expected) == len(error.seen) > 1
    assert "verify_checkpoints" in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (again.path, again.expected, str(again)) == (path, error.expected, str(error))
    assert proxy.count("optim_step") == 6, "the proof takes no step"


def test_a_model_made_by_create_model_is_verified_too(
    begin_on_torch: Callable[..., Any], torch_engine: LyingTorch
) -> None:
    service, _ = begin_on_torch("tinker-cloud-old")
    _, first, path = two_saves(service)
    service.create_training_client_from_state_with_optimizer(path)
    torch_engine.instead = "first"
    service.create_training_client_from_state_with_optimizer(first)
    with pytest.raises(CheckpointMismatchError):
        service.create_training_client_from_state_with_optimizer(path)


def test_wrong_loads_of_hatchery_are_detected_without_its_dialect(
    begin: Callable[..., Any],
) -> None:
    """It keeps the files of a model's first save for each later one."""
    service, _ = begin("hatchery", dialect=evolve(DIALECTS["hatchery"], saves_once=False))
    _, first, path = two_saves(service)
    service.create_training_client_from_state(first)
    with pytest.raises(CheckpointMismatchError):
        service.create_training_client_from_state(path)


def test_calls_queued_behind_a_mismatched_load_are_not_sent(
    begin: Callable[..., Any], engine: Lying
) -> None:
    service, proxy = begin("tinkex", **PROVED)
    trainer, _, path = two_saves(service)
    engine.instead = "first"
    before = proxy.count("optim_step")
    load, step = trainer.load_state(path), trainer.train_step(BATCH, "cross_entropy", ADAM)
    with pytest.raises(CheckpointMismatchError):
        load.result()
    with pytest.raises(RequestSkippedError, match="holds other weights"):
        step.result()
    assert proxy.count("optim_step") == before
    train(trainer)  # the user knows now


def test_nothing_trains_on_when_a_load_failed(begin: Callable[..., Any]) -> None:
    service, proxy = begin("tinkex")
    trainer = new(service)
    load, step = (
        trainer.load_state(f"tinker://{trainer.model_id}/weights/none"),
        trainer.optim_step(ADAM),
    )
    with pytest.raises(TinkexError):
        load.result()
    with pytest.raises(RequestSkippedError):
        step.result()
    assert proxy.count("optim_step") == 0


def test_a_checkpoint_that_was_overwritten_is_another_one(begin: Callable[..., Any]) -> None:
    service, _ = begin("tinkex", **PROVED)
    trainer = new(service)
    trainer.save_state("one").result()
    train(trainer, 5)
    path = trainer.save_state("one", overwrite=True).result().path
    trainer.load_state(path).result()
    # gradients wait, so that no forward is sent beside them
    trainer.forward_backward(BATCH, "cross_entropy").result()
    trainer.save_state("one", overwrite=True).result()
    trainer.load_state(path).result()


# ---- recovery ----

LOST = StepOutcomeUnknown("lost", operation="optim_step")


def test_a_run_goes_back_further_where_the_last_state_is_not_what_it_was(
    begin: Callable[..., Any], engine: Lying
) -> None:
    service, _ = begin("tinkex", **PROVED)
    trainer = new(service)
    train(trainer)
    run = service.create_recoverable_run(trainer, RecoveryPolicy(keep=3))
    before, first = loss(trainer), checkpoints(service, trainer)[0]
    train(trainer, 5)
    later = service.create_recoverable_run(trainer, RecoveryPolicy(keep=3))
    engine.instead = first
    assert run.recover(LOST) == 0
    assert loss(run.trainer) == pytest.approx(before, abs=1e-3)
    with pytest.raises(RecoveryFailedError, match="none of 1 checkpoints") as caught:
        later.recover(LOST)
    assert isinstance(caught.value.__cause__, CheckpointMismatchError)
    assert later.recoveries == 1, "it does not try for ever"


def checkpoints(service: Any, trainer: Any) -> list[str]:
    listed = service.create_rest_client().list_checkpoints(trainer.model_id).checkpoints
    return [checkpoint.checkpoint_id.rpartition("/")[2] for checkpoint in listed]


# ---- it changes nothing ----


@pytest.mark.parametrize("kind", ["tinkex", "mlx-tinker", "skyrl-0.3"])
def test_verification_changes_neither_training_nor_a_resume(
    begin_on_torch: Callable[..., Any], kind: str
) -> None:
    losses: dict[bool, list[float]] = {}
    for proved in (False, True):
        service, proxy = begin_on_torch(kind, verify_checkpoints=proved)
        trainer, _, path = two_saves(service)
        resumed = service.create_training_client_from_state_with_optimizer(path, TINY, rank=8)
        forwards = (
            proxy.count("forward") + proxy.count("forward_backward") - proxy.count("optim_step")
        )
        assert forwards == (3 if proved else 0), "one a save, and one a load"
        for client in (trainer, resumed):
            train(client, 2)
        losses[proved] = [loss(trainer), loss(resumed)]
        assert losses[proved][0] == pytest.approx(losses[proved][1], abs=1e-4), (
            "the optimizer came along"
        )
    assert losses[True] == losses[False]


def test_verification_does_not_delay_the_save(begin: Callable[..., Any]) -> None:
    service, _ = begin("tinkex", **PROVED)
    trainer = new(service)
    train(trainer)
    save = trainer.save_state("one")
    step = trainer.train_step(BATCH, "cross_entropy", ADAM)
    assert save.result().path
    step.result()
    assert trainer.load_state(save.result().path).result() is not None


@pytest.mark.parametrize(
    "fault",
    [Instead(400, b'{"detail": "no"}'), Instead(500, b"broken"), "answer lost", "request lost"],
)
def test_a_failed_verification_has_no_effect(
    begin: Callable[..., Any], caplog: pytest.LogCaptureFixture, fault: Any
) -> None:
    service, proxy = begin("mlx-tinker")
    trainer = new(service)
    train(trainer)
    proxy.faults += [("forward", fault)] * 20
    saves: list[Any] = []
    steps: list[Any] = []
    for name in ("one", "two"):
        saves.append(trainer.save_state(name))
        steps.append(trainer.train_step(BATCH, "cross_entropy", ADAM))
    for future in (*saves, *steps):
        future.result()
    assert trainer.load_state(saves[0].result().path).result() is not None, (
        "it is loaded, though nothing is known of it"
    )
    train(trainer)
    assert caplog.text.count(NO_FINGERPRINT) == 1


def test_a_save_that_is_cancelled_leaves_nothing_behind(begin: Callable[..., Any]) -> None:
    service, _ = begin("tinkex", **PROVED)
    trainer = new(service)
    train(trainer)
    trainer.save_state("one").cancel()
    train(trainer)
    path = trainer.save_state("two").result().path
    load = trainer.load_state(path)
    load.cancel()
    train(trainer)


def test_a_client_can_be_closed_during_a_verification(
    connect: Callable[..., Any], engine: Lying, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(engine=engine) as server:
        service = connect(
            server.base_url, config=Config(base_url=server.base_url, verify_checkpoints=True)
        )
        trainer = new(service)
        train(trainer)
        trainer.save_state("one").result()
        service.close()
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "WARNING")]


# ---- where it is taken ----


@pytest.mark.parametrize(
    ("dialect", "by_default", "if_wanted"),
    [
        ("tinkex", False, True),  # measured to be true
        ("skyrl-0.3", False, True),
        ("hosted", False, True),  # a forward is a flag there, and costs money
        ("open-rl", False, False),  # a forward is a forward_backward there
        ("open-rl-old", False, False),
        ("hatchery", True, True),
        ("mlx-tinker", True, True),
        ("tuft", False, True),  # a forward is a flag there
        ("skyrl", False, True),
    ],
)
def test_loads_are_verified_only_where_they_are_not_known_to_be_right(
    dialect: str, by_default: bool, if_wanted: bool
) -> None:
    known = DIALECTS[dialect]
    assert (are_taken(known, None), are_taken(known, True), are_taken(known, False)) == (
        by_default,
        if_wanted,
        False,
    )


@pytest.mark.parametrize(
    ("encodings", "expected"),
    [(("json", "protobuf"), False), (("protobuf",), False), (("json",), True)],
)
def test_of_an_unknown_server_a_forward_with_a_route_of_its_own_is_believed(
    encodings: Any, expected: bool
) -> None:
    unknown = Dialect(encodings=encodings)
    assert {are_taken(unknown, None), are_taken(unknown, True)} == {expected}


def test_a_long_datum_is_shortened_to_its_end() -> None:
    datum = shortened(
        Datum(
            ModelInput.from_ints(list(range(100))),
            {"target_tokens": list(range(1, 101)), "weights": [0.0] * 100},
        )
    )
    assert datum.model_input.to_ints() == list(range(100 - MAX_TOKENS, 100))
    assert datum.loss_fn_inputs["target_tokens"].tolist()[-1] == 100
    assert datum.loss_fn_inputs["weights"].tolist() == [1.0] * MAX_TOKENS

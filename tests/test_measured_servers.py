"""The faults that real servers showed tinkex, each on a profile that answers as the real one did; over sockets, in both facades."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.faulty import Faulty, faulty
from tests.job import ADAM, BATCH, loss_of
from tinkex import ChunkLimits, Config, Datum, ModelInput, RetrySettings, StepOutcomeUnknown, TinkexError, UnsupportedByServer
from tinkex.local import serve
from tinkex.local.engine.base import Engine
from tinkex.local.engine.torch_engine import TorchEngine

TINY = "tinkex/tiny"
RATIOS = [Datum(ModelInput.from_ints([1]), {"target_tokens": [2], "logprobs": [-1.0], "advantages": [1.0]})]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return TorchEngine([TINY])


@pytest.fixture
def begin(connect: Callable[..., Any], engine: Engine) -> Iterator[Callable[..., Any]]:
    """Makes a service client of a server of a profile, behind a proxy that can lose answers."""
    with ExitStack() as stack:

        def begin(profile: str, **settings: Any) -> tuple[Any, Faulty]:
            server = stack.enter_context(serve(engine=engine, profile=profile, hold=0.5))
            proxy = stack.enter_context(faulty(server.base_url))
            config = Config(
                **{"dialect": profile, "base_url": proxy.base_url, **settings},
                retry=RetrySettings(base_delay=0.01, max_delay=0.01),
            )
            return connect(proxy.base_url, config=config), proxy

        yield begin


def new(service: Any) -> Any:
    return service.create_lora_training_client(TINY, rank=8, seed=1)


def step(trainer: Any) -> None:
    trainer.forward_backward(BATCH, "cross_entropy").result()
    trainer.optim_step(ADAM).result()


def loss(trainer: Any) -> float:
    return loss_of(BATCH, trainer.forward(BATCH, "cross_entropy").result())


# ---- hatchery --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"dialect": None}])
def test_hatchery_doubles_no_step_whose_answer_is_lost(begin: Callable[..., Any], settings: dict[str, Any]) -> None:
    service, proxy = begin("hatchery", **settings)
    trainer = new(service)
    step(trainer)
    proxy.faults.append(("optim_step", "answer lost"))
    trainer.forward_backward(BATCH, "cross_entropy").result()
    with pytest.raises(StepOutcomeUnknown):
        trainer.optim_step(ADAM).result()
    assert proxy.count("optim_step") == 2


@pytest.mark.parametrize(
    ("profile", "found"),
    [("hatchery", "ignores"), ("open-rl", "ignores"), ("tuft", "refuses"), ("skyrl", "repeats"), ("miles", "repeats")],
)
def test_a_probe_goes_by_what_a_repeat_does_and_not_by_its_id(begin: Callable[..., Any], profile: str, found: str) -> None:
    service, _ = begin(profile)
    dialect = service.probe_server(TINY)
    assert (dialect.seq_id_repeats, dialect.known("seq_id_repeats").how) == (found, "probed")


def test_what_was_only_read_of_repeats_is_not_acted_on_until_it_is_proved(begin: Callable[..., Any]) -> None:
    service, proxy = begin("skyrl")
    trainer = new(service)
    proxy.faults.append(("optim_step", "answer lost"))
    trainer.forward_backward(BATCH, "cross_entropy").result()
    with pytest.raises(StepOutcomeUnknown):
        trainer.optim_step(ADAM).result()
    service.probe_server(TINY)
    trainer = new(service)
    proxy.faults.append(("optim_step", "answer lost"))
    before = proxy.count("optim_step")
    step(trainer)
    assert proxy.count("optim_step") == before + 2


def test_hatchery_is_sent_a_batch_whole(begin: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """Uneven parts would weigh otherwise: each is divided by its own weights there."""
    losses: list[float] = []
    for limits in (None, ChunkLimits(max_items=1)):
        service, proxy = begin("hatchery", chunk_limits=limits)
        trainer = new(service)
        for _ in range(3):
            step(trainer)
        assert proxy.count("forward_backward") == 3
        losses.append(loss(trainer))
    assert losses[0] == losses[1]
    assert "sent whole" in caplog.text


def test_a_second_save_on_hatchery_is_refused_since_it_would_be_the_first_one(begin: Callable[..., Any]) -> None:
    service, proxy = begin("hatchery")
    trainer = new(service)
    trainer.save_state("first").result()
    step(trainer)
    with pytest.raises(UnsupportedByServer, match="first save_state"):
        trainer.save_state("second").result()
    assert proxy.count("save_weights") == 1


@pytest.mark.parametrize("profile", ["hatchery", "xorl"])
def test_a_model_can_be_unloaded_where_that_is_no_promise(begin: Callable[..., Any], profile: str) -> None:
    service, proxy = begin(profile)
    new(service).unload_model()
    assert proxy.count("retrieve_future") >= 1  # of create_model
    assert "unload_model" in "".join(proxy.seen)


def test_a_checkpoint_may_have_no_time(begin: Callable[..., Any]) -> None:
    service, _ = begin("hatchery")
    trainer = new(service)
    saved = trainer.save_state("untimed").result()
    [checkpoint] = service.create_rest_client().list_checkpoints(trainer.model_id).checkpoints
    assert (checkpoint.tinker_path, checkpoint.time) == (saved.path, None)


# ---- open-rl ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("profile", "dialect"), [("open-rl-old", "open-rl-old"), ("open-rl", "open-rl"), ("open-rl-old", None)])
def test_open_rl_is_asked_to_keep_the_optimizer(begin: Callable[..., Any], profile: str, dialect: str | None) -> None:
    service, _ = begin(profile, dialect=dialect)
    trainer = new(service)
    for _ in range(2):
        step(trainer)
    saved = trainer.save_state("warm").result().path
    resumed = service.create_training_client_from_state_with_optimizer(saved, TINY, rank=8)
    for client in (trainer, resumed):
        step(client)
    assert loss(resumed) == pytest.approx(loss(trainer), abs=1e-4)


@pytest.mark.parametrize("dialect", ["open-rl-old", None])
def test_a_forward_on_open_rl_adds_no_gradient_and_has_its_loss(begin: Callable[..., Any], dialect: str | None) -> None:
    service, _ = begin("open-rl-old", dialect=dialect)
    trainer, other = new(service), new(service)
    result = trainer.forward(BATCH, "cross_entropy").result()
    assert result.metrics["loss:sum"] == pytest.approx(loss_of(BATCH, result), rel=1e-5)
    assert result.metrics["loss:sum"] > 1
    step(trainer)
    step(other)
    assert loss(trainer) == pytest.approx(loss(other), abs=1e-4)
    with pytest.raises(UnsupportedByServer):
        trainer.forward(RATIOS, "ppo").result()


# ---- tinker-cloud, twinkle, TuFT, SkyRL ------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["tinker-cloud-old", "tinker-cloud"])
def test_a_base_model_of_tinker_cloud_is_not_sampled(begin: Callable[..., Any], dialect: str) -> None:
    service, proxy = begin(dialect)
    with pytest.raises(UnsupportedByServer, match="no base model"):
        service.create_sampling_client(base_model=TINY)
    assert proxy.count("create_sampling_session") == 0


def test_a_rank_that_tinker_cloud_does_not_tell_is_asked_for(begin: Callable[..., Any], connect: Callable[..., Any]) -> None:
    saver, proxy = begin("tinker-cloud")
    saved = new(saver).save_state("ranked").result().path
    other = connect(proxy.base_url, config=Config(base_url=proxy.base_url, dialect="tinker-cloud"))
    with pytest.raises(UnsupportedByServer, match="of which shape"):
        other.create_training_client_from_state(saved)


def test_the_base_model_goes_beside_the_path_on_twinkle(begin: Callable[..., Any]) -> None:
    service, _ = begin("twinkle")
    saved = new(service).save_state("based").result().path
    sampler = service.create_sampling_client(model_path=saved, base_model=TINY)
    assert sampler.sample([1, 2, 3], 1, {"max_tokens": 2}).result().sequences


def test_skyrl_deletes_by_kind(begin: Callable[..., Any]) -> None:
    service, _ = begin("skyrl")
    trainer = new(service)
    saved = trainer.save_state("gone").result().path
    rest = service.create_rest_client()
    rest.delete_checkpoint_from_tinker_path(saved)
    assert rest.list_checkpoints(trainer.model_id).checkpoints == []


def test_skyrl_0_3_is_asked_for_no_load_without_the_optimizer(begin: Callable[..., Any]) -> None:
    """It would bring the optimizer's state along."""
    service, proxy = begin("skyrl-0.3")
    trainer = new(service)
    saved = trainer.save_state("kept").result().path
    before = proxy.count("create_model")
    for load in (service.create_training_client_from_state, trainer.load_state):
        with pytest.raises(UnsupportedByServer, match="optimizer's state") as caught:
            load(saved).result()
        assert "with_optimizer" in str(caught.value)
    assert (proxy.count("create_model"), proxy.count("load_weights")) == (before, 0)
    service.create_training_client_from_state_with_optimizer(saved)
    trainer.load_state_with_optimizer(saved).result()


def test_a_late_load_on_skyrl_says_how_to_load(begin: Callable[..., Any]) -> None:
    service, _ = begin("skyrl")
    trainer = new(service)
    step(trainer)
    saved = trainer.save_state("late").result().path
    with pytest.raises(TinkexError, match="not permitted") as caught:
        trainer.load_state(saved).result()
    assert "create_training_client_from_state" in str(caught.value)
    step(trainer)


def test_hatchery_is_said_to_divide_what_is_gathered_before_a_step(
    begin: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    service, _ = begin("hatchery")
    trainer = new(service)
    for _ in range(2):
        step(trainer)
    assert "in place of summing" not in caplog.text
    for _ in range(2):
        trainer.forward_backward(BATCH, "cross_entropy").result()
        step(trainer)
    assert caplog.text.count("in place of summing") == 1


@pytest.mark.parametrize("dialect", ["tuft", None])
def test_a_failed_step_of_tuft_leaves_its_number_to_the_next(begin: Callable[..., Any], dialect: str | None) -> None:
    service, _ = begin("tuft", dialect=dialect)
    trainer = new(service)
    step(trainer)
    with pytest.raises(TinkexError):
        trainer.load_state(f"tinker://{trainer.model_id}/weights/none").result()
    step(trainer)
    assert loss(trainer) > 0

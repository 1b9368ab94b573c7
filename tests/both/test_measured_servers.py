"""The faults that real servers showed tinkex, each on a profile that answers as the real one did;
over sockets, in both facades.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.faulty_proxy import Faulty, Instead, faulty
from tests.support.whole_job import ADAM, BATCH, loss_of
from tinkex import (
    BadRequestError,
    ChunkLimits,
    Config,
    Datum,
    Dialect,
    ModelInput,
    NotFoundError,
    RetrySettings,
    StepOutcomeUnknown,
    TinkexError,
    UnsupportedByServer,
)
from tinkex.config.recovery import is_recoverable
from tinkex.dialects.table import DIALECTS
from tinkex.local import serve
from tinkex_server.engine.fake import FakeEngine
from tinkex_server.engine.interface import Engine
from tinkex_server.engine.torch.engine import TorchEngine

TINY = "tinkex/tiny"
RATIOS = [
    Datum(
        ModelInput.from_ints([1]), {"target_tokens": [2], "logprobs": [-1.0], "advantages": [1.0]}
    )
]


@pytest.fixture(scope="module")
def torch_engine() -> Engine:
    return TorchEngine([TINY])


@pytest.fixture
def begin(connect: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Makes a service client of a server of a profile, behind a proxy that can lose answers."""
    yield from beginning(connect, FakeEngine([TINY]))


@pytest.fixture
def begin_on_torch(
    connect: Callable[..., Any], torch_engine: Engine
) -> Iterator[Callable[..., Any]]:
    """The same, with an engine that has gradients, optimizers and losses."""
    yield from beginning(connect, torch_engine)


def beginning(connect: Callable[..., Any], engine: Engine) -> Iterator[Callable[..., Any]]:
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


# ---- hatchery ----


@pytest.mark.parametrize("settings", [{}, {"dialect": None}])
def test_hatchery_doubles_no_step_whose_answer_is_lost(
    begin: Callable[..., Any], settings: dict[str, Any]
) -> None:
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
    [
        ("hatchery", "ignores"),
        ("open-rl", "ignores"),
        ("tuft", "refuses"),
        ("skyrl", "repeats"),
        ("miles", "repeats"),
    ],
)
def test_a_probe_judges_a_repeat_by_its_effect_and_not_by_its_id(
    begin: Callable[..., Any], profile: str, found: str
) -> None:
    service, _ = begin(profile)
    dialect = service.probe_server(TINY)
    assert (dialect.seq_id_repeats, dialect.known("seq_id_repeats").how) == (found, "probed")


def test_repeats_that_were_only_read_about_are_not_relied_on_until_measured(
    begin: Callable[..., Any],
) -> None:
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


def test_hatchery_is_sent_a_batch_whole(
    begin_on_torch: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Uneven parts would weigh otherwise: each is divided by its own weights there."""
    losses: list[float] = []
    for limits in (None, ChunkLimits(max_items=1)):
        service, proxy = begin_on_torch("hatchery", chunk_limits=limits)
        trainer = new(service)
        for _ in range(3):
            step(trainer)
        assert proxy.count("forward_backward") == 3
        losses.append(loss(trainer))
    assert losses[0] == losses[1]
    assert "sent whole" in caplog.text


def test_a_second_save_on_hatchery_is_refused_since_it_would_be_the_first_one(
    begin: Callable[..., Any],
) -> None:
    service, proxy = begin("hatchery")
    trainer = new(service)
    trainer.save_state("first").result()
    step(trainer)
    with pytest.raises(UnsupportedByServer, match="first save_state"):
        trainer.save_state("second").result()
    assert proxy.count("save_weights") == 1


@pytest.mark.parametrize("profile", ["hatchery", "xorl"])
def test_a_model_can_be_unloaded_where_the_answer_is_not_a_promise(
    begin: Callable[..., Any], profile: str
) -> None:
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


# ---- open-rl ----


@pytest.mark.parametrize(
    ("profile", "dialect"),
    [("open-rl-old", "open-rl-old"), ("open-rl", "open-rl"), ("open-rl-old", None)],
)
def test_open_rl_is_asked_to_keep_the_optimizer(
    begin_on_torch: Callable[..., Any], profile: str, dialect: str | None
) -> None:
    service, _ = begin_on_torch(profile, dialect=dialect)
    trainer = new(service)
    for _ in range(2):
        step(trainer)
    saved = trainer.save_state("warm").result().path
    resumed = service.create_training_client_from_state_with_optimizer(saved, TINY, rank=8)
    for client in (trainer, resumed):
        step(client)
    assert loss(resumed) == pytest.approx(loss(trainer), abs=1e-4)


@pytest.mark.parametrize("dialect", ["open-rl-old", None])
def test_a_forward_on_open_rl_adds_no_gradient_and_has_its_loss(
    begin_on_torch: Callable[..., Any], dialect: str | None
) -> None:
    service, _ = begin_on_torch("open-rl-old", dialect=dialect)
    trainer, other = new(service), new(service)
    result = trainer.forward(BATCH, "cross_entropy").result()
    assert result.metrics["loss:sum"] == pytest.approx(loss_of(BATCH, result), rel=1e-5)
    assert result.metrics["loss:sum"] > 1
    step(trainer)
    step(other)
    assert loss(trainer) == pytest.approx(loss(other), abs=1e-4)
    with pytest.raises(UnsupportedByServer):
        trainer.forward(RATIOS, "ppo").result()


@pytest.mark.parametrize("dialect", ["open-rl-old", None])
def test_open_rl_of_april_is_detected_before_a_batch_is_sent(
    begin: Callable[..., Any], dialect: str | None
) -> None:
    service, proxy = begin("open-rl-old", dialect=dialect)
    step(new(service))
    assert (service.server.name, proxy.count("forward_backward")) == ("open-rl-old", 1)


def test_stops_that_open_rl_of_april_ignores_cause_one_warning(
    begin_on_torch: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    service, _ = begin_on_torch("open-rl-old", dialect=None)
    sampler = new(service).save_weights_and_get_sampling_client()
    first = (
        sampler.sample([1, 2, 3], 1, {"max_tokens": 4, "temperature": 0.0})
        .result()
        .sequences[0]
        .tokens
    )
    caplog.clear()
    for _ in range(2):
        params = {"max_tokens": 4, "temperature": 0.0, "stop": [first[1]]}
        assert list(sampler.sample([1, 2, 3], 1, params).result().sequences[0].tokens) == list(
            first
        )
    assert caplog.text.count("stop is ignored") == 1


def test_on_an_unknown_server_without_forward_the_error_says_what_to_do(
    begin: Callable[..., Any],
) -> None:
    service, _ = begin("open-rl-old", dialect=Dialect())
    trainer = new(service)
    step(trainer)
    for _ in range(2):  # found out, and known
        with pytest.raises(UnsupportedByServer, match="use Config\\(dialect='open-rl-old'\\)"):
            trainer.forward(BATCH, "cross_entropy").result()
    step(trainer)


# ---- tinker-cloud, twinkle, TuFT, SkyRL ----


@pytest.mark.parametrize("dialect", ["tinker-cloud-old", "tinker-cloud"])
def test_a_base_model_of_tinker_cloud_is_not_sampled(
    begin: Callable[..., Any], dialect: str
) -> None:
    service, proxy = begin(dialect)
    with pytest.raises(UnsupportedByServer, match="does not sample from a base model"):
        service.create_sampling_client(base_model=TINY)
    assert proxy.count("create_sampling_session") == 0


def test_the_older_tinker_cloud_samples_the_trained_model_for_the_base(
    begin_on_torch: Callable[..., Any],
) -> None:
    """The profile imitates this, and a client that knows the server refuses such a sample."""
    service, _ = begin_on_torch("tinker-cloud-old", dialect=Dialect(encodings=("json",)))
    prompt = BATCH[0].model_input.to_ints()
    sampler = service.create_sampling_client(base_model=TINY)
    before = sampler.compute_logprobs(prompt).result()
    trainer = new(service)
    step(trainer)
    after = sampler.compute_logprobs(prompt).result()
    assert np.abs(np.subtract(before[1:], after[1:])).max() > 1e-3
    own = trainer.save_weights_and_get_sampling_client().compute_logprobs(prompt).result()
    assert after[1:] == pytest.approx(own[1:], abs=1e-5)
    with pytest.raises(UnsupportedByServer, match="does not sample from a base model"):
        begin_on_torch("tinker-cloud-old", dialect=None)[0].create_sampling_client(base_model=TINY)


def test_a_rank_that_tinker_cloud_does_not_report_must_be_given(
    begin: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    saver, proxy = begin("tinker-cloud")
    saved = new(saver).save_state("ranked").result().path
    other = connect(proxy.base_url, config=Config(base_url=proxy.base_url, dialect="tinker-cloud"))
    with pytest.raises(UnsupportedByServer, match="does not tell the LoRA shape"):
        other.create_training_client_from_state(saved)


def test_the_base_model_goes_beside_the_path_on_twinkle(begin: Callable[..., Any]) -> None:
    service, _ = begin("twinkle")
    saved = new(service).save_state("based").result().path
    sampler = service.create_sampling_client(model_path=saved, base_model=TINY)
    assert sampler.sample([1, 2, 3], 1, {"max_tokens": 2}).result().sequences


@pytest.mark.parametrize("dialect", ["twinkle", None])
def test_the_padding_of_twinkles_forward_is_cut_off(
    begin_on_torch: Callable[..., Any], dialect: str | None
) -> None:
    service, _ = begin_on_torch("twinkle", dialect=dialect)
    trainer = new(service)
    outputs = trainer.forward(BATCH, "cross_entropy").result().loss_fn_outputs
    targets = [len(datum.loss_fn_inputs["target_tokens"].to_numpy()) for datum in BATCH]
    if dialect is None:  # behind a proxy that drops the sign by which it is told
        assert service.server.name == "unknown"
        assert {len(output["logprobs"].to_numpy()) for output in outputs} == {max(targets)}
    else:
        assert [len(output["logprobs"].to_numpy()) for output in outputs] == targets


def test_a_path_that_tells_twinkle_does_not_change_whose_the_models_are(
    begin: Callable[..., Any],
) -> None:
    service, _ = begin("twinkle", dialect=None)
    trainer = new(service)
    trainer.save_weights_for_sampler("told").result()
    assert (service.server.name, service.server.bearer) == ("twinkle", False)


@pytest.mark.parametrize("name", ["verl", "xorl"])
def test_only_losses_that_the_servers_code_has_are_sent(
    begin_on_torch: Callable[..., Any], name: str
) -> None:
    service, proxy = begin_on_torch(name)
    trainer = new(service)
    inputs = {"target_tokens": [2], "logprobs": [-1.0], "advantages": [1.0]}
    for loss_fn in sorted(DIALECTS[name].losses or ()):
        kinds = ("cross_entropy", "causallm_loss")
        batch = [
            Datum(ModelInput.from_ints([1]), {"target_tokens": [2]} if loss_fn in kinds else inputs)
        ]
        assert trainer.forward_backward(batch, loss_fn).result().loss_fn_outputs
    sent = proxy.count("forward_backward")
    with pytest.raises(UnsupportedByServer, match="no loss"):
        trainer.forward_backward(RATIOS, "gspo").result()
    assert proxy.count("forward_backward") == sent


@pytest.mark.parametrize("dialect", ["skyrl", "skyrl-0.4"])
def test_skyrl_deletes_by_kind(begin: Callable[..., Any], dialect: str) -> None:
    service, _ = begin(dialect)
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


def test_the_client_warns_that_hatchery_averages_gathered_gradients(
    begin_on_torch: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    service, _ = begin_on_torch("hatchery")
    trainer = new(service)
    for _ in range(2):
        step(trainer)
    assert "instead of summing" not in caplog.text
    for _ in range(2):
        trainer.forward_backward(BATCH, "cross_entropy").result()
        step(trainer)
    assert caplog.text.count("instead of summing") == 1


@pytest.mark.parametrize("dialect", ["tuft", None])
def test_a_failed_step_of_tuft_leaves_its_number_to_the_next(
    begin: Callable[..., Any], dialect: str | None
) -> None:
    service, _ = begin("tuft", dialect=dialect)
    trainer = new(service)
    step(trainer)
    with pytest.raises(TinkexError):
        trainer.load_state(f"tinker://{trainer.model_id}/weights/none").result()
    step(trainer)
    assert loss(trainer) > 0


@pytest.mark.parametrize("dialect", ["tuft", None])
def test_an_archive_of_tuft_is_a_file_of_its_own_disk(
    begin: Callable[..., Any], dialect: str | None, tmp_path: Path
) -> None:
    service, _ = begin("tuft", dialect=dialect)
    saved = new(service).save_weights_for_sampler("kept").result().path
    with pytest.raises(UnsupportedByServer, match="a path on its own disk"):
        service.create_rest_client().download_checkpoint(saved, output_dir=tmp_path)


@pytest.mark.parametrize("dialect", ["tuft", None])
def test_a_mistake_of_the_user_on_tuft_is_not_mistaken_for_a_lost_model(
    begin_on_torch: Callable[..., Any], dialect: str | None
) -> None:
    """A poll there is 404 for a checkpoint or a loss that there is not, as for a model that the
    server has forgotten.
    """
    service, _ = begin_on_torch("tuft", dialect=dialect)
    trainer = new(service)
    bad = Datum(ModelInput.from_ints([10**6]), {"target_tokens": [1], "weights": [1.0]})
    for call in (
        lambda: trainer.forward_backward([bad], "cross_entropy"),
        lambda: trainer.load_state(f"tinker://{trainer.model_id}/weights/none"),
    ):
        with pytest.raises(TinkexError) as caught:
            call().result()
        assert (is_recoverable(caught.value), caught.value.fault) == (False, "user")
    step(trainer)
    trainer.unload_model()
    with pytest.raises(NotFoundError) as caught:
        trainer.forward_backward(BATCH, "cross_entropy").result()
    assert is_recoverable(caught.value)


# ---- SkyRL 0.4, Spindle ----


@pytest.mark.parametrize("name", ["skyrl-0.4", "spindle"])
def test_a_newer_server_is_told_from_those_that_look_like_it(
    begin: Callable[..., Any], name: str
) -> None:
    service, proxy = begin(name, dialect=None)
    trainer = new(service)
    step(trainer)
    assert (service.server.name, proxy.count("forward_backward")) == (name, 1)
    assert loss(trainer) > 0
    assert proxy.count("forward") == 0


def test_skyrl_0_4_is_asked_to_prove_that_it_knows_repeats(begin: Callable[..., Any]) -> None:
    service, _ = begin("skyrl-0.4", dialect=None)
    new(service)
    assert service.server.seq_id_repeats == "unknown"
    found = service.probe_server(TINY)
    assert (found.seq_id_repeats, found.known("seq_id_repeats").how) == ("repeats", "probed")


@pytest.mark.parametrize("dialect", ["spindle", None])
def test_a_request_that_spindle_refuses_takes_its_number(
    begin_on_torch: Callable[..., Any], dialect: str | None
) -> None:
    service, proxy = begin_on_torch("spindle", dialect=dialect)
    trainer, other = new(service), new(service)
    step(trainer)
    refused = trainer.forward_backward(
        [Datum(ModelInput.from_ints([1]), {"target_tokens": [2]})], "no_such_loss"
    )
    with pytest.raises(BadRequestError):
        refused.result()
    for client in (trainer, other):
        step(client)
    step(other)
    assert loss(trainer) == pytest.approx(loss(other), abs=1e-4)
    assert proxy.count("forward_backward") == 7


def test_a_model_of_spindle_is_made_from_a_checkpoint_by_the_session(
    begin_on_torch: Callable[..., Any],
) -> None:
    service, proxy = begin_on_torch("spindle", dialect=None)
    trainer = new(service)
    step(trainer)
    models = proxy.count("create_model")
    resumed = service.create_training_client_from_state_with_optimizer(
        trainer.save_state("warm").result().path
    )
    for client in (trainer, resumed):
        step(client)
    assert (loss(resumed), proxy.count("create_model")) == (
        pytest.approx(loss(trainer), abs=1e-4),
        models,
    )


@pytest.mark.parametrize("dialect", ["spindle", Dialect()])
def test_spindle_has_no_archives(begin: Callable[..., Any], dialect: Any, tmp_path: Path) -> None:
    service, _ = begin("spindle", dialect=dialect)
    saved = new(service).save_weights_for_sampler("kept").result().path
    with pytest.raises(UnsupportedByServer, match="no get_checkpoint_archive_url"):
        service.create_rest_client().download_checkpoint(saved, output_dir=tmp_path)


def test_a_result_that_spindle_lost_raises_result_lost_error(begin: Callable[..., Any]) -> None:
    """It answers 410 for what it does not know any more; a sample is then asked for again."""
    service, proxy = begin("spindle")
    sampler = new(service).save_weights_and_get_sampling_client()
    proxy.faults.append(
        (
            "retrieve_future",
            Instead(410, b'{"error": "request_lost"}', {"Content-Type": "application/json"}),
        )
    )
    samples = proxy.count("asample")
    assert sampler.sample([1, 2, 3], 1, {"max_tokens": 2}).result().sequences
    assert proxy.count("asample") == samples + 2

"""The rules of tests/support/server_rules.py hold on servers of every kind, over real sockets: the
embedded server imitates each in turn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

import httpx
import orjson
import pytest
from attrs import define, evolve, field

import tinkex.local
import tinkex.transport.sender
import tinkex.transport.server
from tests.support.batches import batch, datum
from tests.support.faulty_proxy import Fault, faulty
from tests.support.recording_engine import RecordingEngine
from tests.support.server_rules import RULES
from tests.support.wait_until import wait_until
from tinkex import (
    AdamParams,
    AuthenticationError,
    ChunkLimits,
    Config,
    Datum,
    DimuonParams,
    InvalidInputError,
    ModelInput,
    NumpyLoss,
    RequestFailedError,
    ResultLostError,
    RetrySettings,
    StepOutcomeUnknown,
    TinkexError,
    UnprocessableEntityError,
    UnsupportedByServer,
)
from tinkex.dialects import unknown_fields
from tinkex.dialects.detect import RECOGNISED
from tinkex.dialects.dialect import Dialect, Evidence
from tinkex.dialects.table import DIALECTS
from tinkex.losses.named import weighted
from tinkex.transport import failures
from tinkex.transport.port import Answer, Connections, Headers, Message
from tinkex.types import OptimizerConfig
from tinkex_server.engine.interface import ModelInfo
from tinkex_server.profiles import PROFILES, Profile
from tinkex_server.profiles.profile import Auth

BASE = "tinkex/tiny"  # a name by which there is a tokenizer
STEP = AdamParams(learning_rate=0.5)
QUICK = RetrySettings(base_delay=0.01, max_delay=0.01)
ALL_BUT_HOSTED = [name for name in PROFILES if not name.startswith("hosted")]
"""The profiles that can be found at any address."""
JSON_ALONE = ("skyrl-0.3", "tinker-cloud-old", "twinkle", "xorl", "verl", "hatchery", "mlx-tinker")


@define
class Exchange:
    """A request as it went over the wire, and the status of its answer."""

    operation: str
    """The path, without the prefix."""
    headers: httpx.Headers
    raw: bytes
    status: int

    @property
    def body(self) -> dict[str, Any]:
        return orjson.loads(self.raw)


@define
class Wire:
    """The requests of all clients of a test, in order, and answers given in the server's place."""

    exchanges: list[Exchange] = field(factory=list)
    instead: dict[str, Answer] = field(factory=dict)
    """The answer to an operation's next request."""
    under_way: Counter[str] = field(factory=Counter)
    together: Counter[str] = field(factory=Counter)
    """The most requests of an operation that were under way at once."""

    def of(self, operation: str) -> list[Exchange]:
        return [exchange for exchange in self.exchanges if exchange.operation == operation]

    def statuses(self, operation: str) -> list[int]:
        return [exchange.status for exchange in self.of(operation)]


@define(eq=False)
class Tapped:
    inner: Connections
    wire: Wire

    async def exchange(self, message: Message) -> Answer:
        operation = urlsplit(message.url).path.removeprefix("/api/v1/")
        wire, given = self.wire, self.wire.instead.pop(operation, None)
        wire.under_way[operation] += 1
        wire.together[operation] = max(wire.together[operation], wire.under_way[operation])
        try:
            response = given or await self.inner.exchange(message)
        finally:
            wire.under_way[operation] -= 1
        wire.exchanges.append(
            Exchange(
                operation,
                httpx.Headers(dict(message.headers)),
                message.content,
                response.status_code,
            )
        )
        return response

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def abandon(self) -> None:
        await self.inner.abandon()


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    wire, handler = Wire(), tinkex.transport.sender.connections_of
    monkeypatch.setattr(
        tinkex.transport.sender, "connections_of", lambda config: Tapped(handler(config), wire)
    )
    return wire


@pytest.fixture(scope="module")
def engine() -> RecordingEngine:
    return RecordingEngine(base_models=[ModelInfo(BASE, 64, 100, "FakeForCausalLM", BASE)])


@pytest.fixture(scope="module")
def shared(engine: RecordingEngine) -> Iterator[Callable[[str], str]]:
    """The URL of the one server of a kind, which starts when it is first asked for."""
    with ExitStack() as stack:
        yield cache(
            lambda name: (
                stack.enter_context(tinkex.local.serve(profile=name, engine=engine)).base_url
            )
        )


@pytest.fixture
def serve(
    engine: RecordingEngine, shared: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., str]]:
    """Gives the URL of a server that looks like a kind of server, of which nothing is known yet;
    one with settings is the test's own.
    """
    monkeypatch.setattr(tinkex.transport.server, "_servers", WeakValueDictionary())
    with ExitStack() as stack:

        def serve(profile: str | Profile, **settings: Any) -> str:
            if isinstance(profile, str) and not settings:
                return shared(profile)
            return stack.enter_context(
                tinkex.local.serve(profile=profile, engine=engine, **settings)
            ).base_url

        yield serve


@pytest.fixture
def service_of(connect: Callable[..., Any], serve: Callable[..., str]) -> Callable[..., Any]:
    """A client of a server of this kind, which it knows nothing of unless `dialect` is given."""

    def service_of(
        profile: str | Profile, dialect: str | Dialect | None = None, **settings: Any
    ) -> Any:
        url = serve(profile)
        return connect(url, config=Config(base_url=url, dialect=dialect, retry=QUICK, **settings))

    return service_of


def calls_of(engine: RecordingEngine, model_id: str) -> list[str]:
    """Returns the names of the engine's calls for a model, in order."""
    return [call[0] for call in engine.calls if call[1:2] == (model_id,)]


# ---- 1, 20: what the server is ----


@pytest.mark.rule(1, 4, 10, 17)
@pytest.mark.parametrize("name", ALL_BUT_HOSTED)
def test_a_model_is_trained_and_saved_on_every_kind_of_server(
    service_of: Callable[..., Any], engine: RecordingEngine, wire: Wire, name: str
) -> None:
    """The client is told nothing about the server: a route that the server lacks and an encoding
    that it does not read cause no error.
    """
    with service_of(name) as service:
        trainer = service.create_lora_training_client(BASE, rank=4)
        gradients, update = (
            trainer.forward_backward(batch(3), "cross_entropy"),
            trainer.optim_step(STEP),
        )
        assert [output["logprobs"].tolist() for output in gradients.result().loss_fn_outputs] == [
            [-1.0],
            [-2.0],
            [-3.0],
        ]
        update.result()
        assert trainer.save_state("one").result().path
    assert calls_of(engine, trainer.model_id)[:4] == [
        "create_model",
        "forward_backward",
        "optim_step",
        "save_model",
    ]
    taken = [
        exchange.body["seq_id"]
        for exchange in wire.exchanges
        if exchange.operation in ("optim_step", "save_weights")
    ]
    assert taken == [2, 3]


@pytest.mark.rule(20)
@pytest.mark.parametrize("name", ALL_BUT_HOSTED)
def test_the_detected_dialect_can_be_inspected(service_of: Callable[..., Any], name: str) -> None:
    service = service_of(name)
    service.create_lora_training_client(BASE, rank=4)
    shown = service.server
    alike = {"skyrl": "skyrl-0.3", "open-rl-old": "open-rl"}
    assert shown.name == (name if name in RECOGNISED else alike.get(name, "unknown"))
    if name in RECOGNISED:
        known = DIALECTS[name]
        assert (shown.pending, shown.failed) == (known.pending, known.failed)
        assert shown.seq_id_repeats == (
            "unknown" if known.known("seq_id_repeats").how == "read" else known.seq_id_repeats
        )
        assert shown.missing.keys() >= known.missing.keys()


@pytest.mark.rule(20)
def test_a_given_dialect_is_the_one_in_use(service_of: Callable[..., Any]) -> None:
    service = service_of("skyrl", dialect="skyrl")
    service.create_lora_training_client(BASE, rank=4)
    assert service.server == DIALECTS["skyrl"].as_trusted()


@pytest.mark.rule(1)
def test_what_one_client_learns_of_a_server_is_known_to_the_next(
    connect: Callable[..., Any], serve: Callable[..., str], wire: Wire
) -> None:
    url = serve("mlx-tinker")
    first, second = connect(url), connect(url)
    first.create_lora_training_client(BASE, rank=4).forward_backward(
        batch(1), "cross_entropy"
    ).result()
    assert second.server.encodings == first.server.encodings == ("json",)
    second.create_lora_training_client(BASE, rank=4).forward_backward(
        batch(1), "cross_entropy"
    ).result()
    assert set(wire.statuses("forward_backward")) == {200}


@pytest.mark.rule(1, 20)
def test_a_call_that_a_server_is_known_to_lack_is_refused_before_anything_is_sent(
    service_of: Callable[..., Any], wire: Wire
) -> None:
    service = service_of("tuft", project_id="mine")
    service.create_lora_training_client(BASE, rank=4)
    with pytest.raises(UnsupportedByServer, match="no copy_weights") as caught:
        service.copy_weights("tinker://run/weights/one")
    assert (caught.value.server, caught.value.operation) == ("tuft", "copy_weights")
    assert wire.of("copy_weights") == []


# ---- 2, 3: what is sent ----


@pytest.mark.rule(2)
def test_a_default_field_that_a_strict_server_refuses_is_omitted_from_then_on(
    service_of: Callable[..., Any], wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    service = service_of("tuft")
    for _ in range(2):
        service.create_lora_training_client(BASE, rank=4, optimizer=OptimizerConfig("adamw"))
    assert wire.statuses("create_model") == [422, 202, 202]
    assert ["optimizer_config" in exchange.body for exchange in wire.of("create_model")] == [
        True,
        False,
        False,
    ]
    assert (
        sum(
            "create_model is sent without optimizer_config" in record.message
            for record in caplog.records
        )
        == 1
    )


@pytest.mark.rule(2)
def test_a_field_that_the_user_set_is_never_omitted(
    service_of: Callable[..., Any], wire: Wire
) -> None:
    service = service_of("tuft")
    with pytest.raises(UnprocessableEntityError, match="optimizer_config"):
        service.create_lora_training_client(BASE, rank=4, optimizer=OptimizerConfig("dimuon"))
    trainer = service.create_lora_training_client(BASE, rank=4)
    with pytest.raises(UnprocessableEntityError, match="optimizer_params"):
        trainer.optim_step(DimuonParams(1e-4)).result()
    assert wire.statuses("optim_step") == [422]


@pytest.mark.rule(2)
@pytest.mark.parametrize(
    ("body", "names", "left"),
    [
        ({"a": 1, "tags": []}, {"tags"}, {"a": 1}),
        ({"a": 1, "tags": ["mine"]}, {"tags"}, None),
        ({"sdk_version": "1", "overwrite": False}, {"sdk_version", "overwrite"}, {}),
        ({"overwrite": False, "ttl_seconds": 5}, {"overwrite", "ttl_seconds"}, None),
        ({"a": 1}, {"tags"}, None),
        ({"a": 1}, set(), None),
    ],
)
def test_only_fields_with_default_values_are_omitted(
    body: dict[str, Any], names: set[str], left: dict[str, Any] | None
) -> None:
    assert unknown_fields.without(body, frozenset(names)) == left


@pytest.mark.rule(2)
@pytest.mark.parametrize(
    ("detail", "names"),
    [
        (
            [
                {
                    "type": "extra_forbidden",
                    "loc": ["body", "tags"],
                    "msg": "Extra inputs are not permitted",
                }
            ],
            {"tags"},
        ),
        (
            [
                {
                    "type": "value_error.extra",
                    "loc": ["body", "a"],
                    "msg": "extra fields not permitted",
                }
            ],
            {"a"},
        ),
        ([{"type": "missing", "loc": ["body", "tags"], "msg": "Field required"}], set()),
        ([{"type": "extra_forbidden", "loc": ["body", "lora_config", "seed"], "msg": ""}], set()),
        ("tags: no such field", set()),
        (None, set()),
    ],
)
def test_the_unknown_fields_are_read_from_a_refusal(detail: Any, names: set[str]) -> None:
    assert unknown_fields.refused_fields(detail) == names


@pytest.mark.rule(3)
def test_weights_of_1_are_sent_where_none_were_given(
    service_of: Callable[..., Any], engine: RecordingEngine
) -> None:
    """miles refuses cross_entropy without weights."""
    bare = Datum(model_input=ModelInput.from_ints([5, 6]), loss_fn_inputs={"target_tokens": [5, 6]})
    [filled] = weighted([bare], "cross_entropy")
    assert filled.loss_fn_inputs["weights"].tolist() == [1.0, 1.0]
    assert "weights" not in bare.loss_fn_inputs, "the user's own is left alone"
    assert weighted([bare], "importance_sampling") == [bare]
    given = datum(5)
    assert weighted([given], "cross_entropy") == [given]
    trainer = service_of("miles").create_lora_training_client(BASE, rank=4)
    assert trainer.forward_backward([bare], "cross_entropy").result().metrics["loss:sum"] == 11.0


@pytest.mark.rule(3)
def test_arrays_say_their_dtype_and_shape_and_chunks_their_type(
    service_of: Callable[..., Any], wire: Wire
) -> None:
    trainer = service_of("hatchery").create_lora_training_client(BASE, rank=4)
    trainer.forward_backward([datum(5, 6)], "cross_entropy").result()
    [sent] = wire.of("forward_backward")[-1].body["forward_backward_input"]["data"]
    assert [chunk["type"] for chunk in sent["model_input"]["chunks"]] == ["encoded_text"]
    assert {
        (name, tensor["dtype"], *tensor["shape"]) for name, tensor in sent["loss_fn_inputs"].items()
    } == {
        ("target_tokens", "int64", 2),
        ("weights", "float32", 2),
    }


@pytest.mark.rule(3)
@pytest.mark.parametrize("name", ["skyrl-0.3", "twinkle", "hatchery", "verl"])
def test_every_sampling_parameter_is_sent(
    service_of: Callable[..., Any], wire: Wire, name: str
) -> None:
    service_of(name).create_sampling_client(base_model=BASE).sample([5], 1, {}).result()
    assert wire.of("asample")[-1].body["sampling_params"].keys() >= {
        "temperature",
        "top_p",
        "top_k",
        "max_tokens",
    }


# ---- 5, 6: forwards and results ----


@pytest.mark.rule(5)
@pytest.mark.parametrize("name", JSON_ALONE)
def test_a_forward_in_json_goes_to_forward(
    service_of: Callable[..., Any], engine: RecordingEngine, wire: Wire, name: str
) -> None:
    """Such a server trains whatever comes to forward_backward."""
    trainer = service_of(name).create_lora_training_client(BASE, rank=4)
    assert len(trainer.forward([datum(5)], "cross_entropy").result().loss_fn_outputs) == 1
    assert calls_of(engine, trainer.model_id) == ["create_model", "forward"]
    assert wire.statuses("forward") == [200]


@pytest.mark.rule(5)
@pytest.mark.parametrize("dialect", [None, "open-rl-old"])
def test_a_forward_on_a_server_that_has_none_trains_nothing(
    service_of: Callable[..., Any], wire: Wire, dialect: str | None
) -> None:
    trainer = service_of("open-rl-old", dialect).create_lora_training_client(BASE, rank=4)
    output = trainer.forward([datum(5)], "cross_entropy").result().loss_fn_outputs[0]
    assert output["logprobs"].tolist() == [-5.0]
    [datum_sent] = wire.of("forward_backward")[-1].body["forward_backward_input"]["data"]
    assert set(datum_sent["loss_fn_inputs"]["weights"]["data"]) == {0.0}, "no gradient comes of it"


@pytest.mark.rule(6)
@pytest.mark.parametrize("name", ["hosted", "twinkle", "tinkex"])
def test_both_forms_of_a_result_are_asked_for_and_either_is_read(
    service_of: Callable[..., Any], wire: Wire, name: str
) -> None:
    trainer = service_of(name).create_lora_training_client(BASE, rank=4)
    assert trainer.forward_backward([datum(5, 7)], "cross_entropy").result().loss_fn_outputs[0][
        "logprobs"
    ].tolist() == [-5.0, -7.0]
    accepted = [exchange.headers["accept"] for exchange in wire.of("retrieve_future")]
    assert accepted[-1] == "application/x-protobuf, application/json"
    assert accepted[0] == "application/json", "a model's, which has one form"


# ---- 10, 11: order, and what becomes of lost answers ----


@pytest.mark.rule(10)
@pytest.mark.parametrize("name", ["tuft", "miles", "open-rl"])
def test_numbers_go_from_1_without_a_gap(
    service_of: Callable[..., Any], wire: Wire, name: str
) -> None:
    trainer = service_of(name).create_lora_training_client(BASE, rank=4)
    with pytest.raises(InvalidInputError):
        trainer.optim_step(None)
    for future in [trainer.optim_step(STEP), trainer.save_state("one"), trainer.optim_step(STEP)]:
        future.result()
    sent = [
        exchange
        for exchange in wire.exchanges
        if exchange.operation in ("optim_step", "save_weights")
    ]
    assert [exchange.body["seq_id"] for exchange in sent] == [1, 2, 3]


@pytest.mark.rule(10)
@pytest.mark.parametrize("name", ALL_BUT_HOSTED)
def test_a_failed_step_does_not_spoil_the_next_ones(
    service_of: Callable[..., Any], engine: RecordingEngine, name: str
) -> None:
    trainer = service_of(name).create_lora_training_client(BASE, rank=4)
    assert isinstance(_failure(trainer.forward_backward([datum(99)], "cross_entropy")), TinkexError)
    trainer.forward_backward(batch(1), "cross_entropy").result()
    trainer.optim_step(STEP).result()
    assert calls_of(engine, trainer.model_id)[-2:] == ["forward_backward", "optim_step"]


@pytest.mark.rule(10)
def test_after_a_failed_step_the_number_that_a_strict_server_expects_is_used(
    service_of: Callable[..., Any], engine: RecordingEngine, wire: Wire
) -> None:
    """TuFT's count stands still at a step that fails, so that those which were sent behind it fail
    as well.
    """
    trainer = service_of("tuft").create_lora_training_client(BASE, rank=4)
    engine.gate.clear()
    held, *failing = [
        *(trainer.forward_backward([datum(token)], "cross_entropy") for token in (96, 99, 1)),
        trainer.optim_step(STEP),
    ]
    wait_until(lambda: bool(wire.of("optim_step")))
    engine.gate.set()
    assert _failure(held) is None
    assert [type(_failure(future)) for future in failing] == [RequestFailedError] * 3
    trainer.forward_backward(batch(1), "cross_entropy").result()
    trainer.optim_step(STEP).result()
    assert [exchange.body["seq_id"] for exchange in wire.of("optim_step")] == [4, 3]


def _failure(future: Any) -> TinkexError | None:
    try:
        future.result()
    except TinkexError as error:
        return error
    return None


@pytest.mark.rule(10)
@pytest.mark.parametrize(
    ("name", "together"),
    [("hosted", True), ("tuft", False), ("open-rl", False), ("twinkle", False)],
)
def test_chunks_are_sent_together_only_where_the_server_says_so(
    service_of: Callable[..., Any], wire: Wire, name: str, together: bool
) -> None:
    trainer = service_of(name, chunk_limits=ChunkLimits(max_items=1)).create_lora_training_client(
        BASE, rank=4
    )
    trainer.forward_backward(batch(1), "cross_entropy").result()
    results = trainer.forward_backward(batch(4), "cross_entropy").result().loss_fn_outputs
    assert [output["logprobs"].tolist() for output in results] == [[-1.0], [-2.0], [-3.0], [-4.0]]
    assert (wire.together["forward_backward"] > 1) == together


@pytest.fixture
def through_proxy(
    connect: Callable[..., Any], serve: Callable[..., str]
) -> Iterator[Callable[..., Any]]:
    """A training client on a server of a kind, and the proxy between that loses what it is told to
    lose.
    """
    with ExitStack() as stack:

        def through_proxy(profile: str, dialect: str | Dialect | None = None) -> Any:
            proxy = stack.enter_context(faulty(serve(profile)))
            config = Config(base_url=proxy.base_url, dialect=dialect, retry=QUICK)
            return connect(proxy.base_url, config=config).create_lora_training_client(
                BASE, rank=4
            ), proxy

        yield through_proxy


@pytest.mark.rule(11)
def test_where_repeats_are_refused_a_step_whose_answer_was_lost_is_known_to_be_applied(
    through_proxy: Callable[..., Any], engine: RecordingEngine
) -> None:
    trainer, proxy = through_proxy("tuft")
    trainer.forward_backward(batch(1), "cross_entropy").result()
    proxy.faults.append(("optim_step", "answer lost"))
    with pytest.raises(ResultLostError, match="was applied"):
        trainer.optim_step(STEP).result()
    assert (proxy.count("optim_step"), engine.count("optim_step", trainer.model_id)) == (2, 1)
    trainer.optim_step(STEP).result()
    assert engine.count("optim_step", trainer.model_id) == 2


@pytest.mark.rule(11)
def test_where_repeats_are_refused_a_step_that_did_not_arrive_is_sent_again(
    through_proxy: Callable[..., Any], engine: RecordingEngine
) -> None:
    trainer, proxy = through_proxy("tuft")
    trainer.forward_backward(batch(1), "cross_entropy").result()
    proxy.faults.append(("optim_step", "request lost"))
    trainer.optim_step(STEP).result()
    assert (proxy.count("optim_step"), engine.count("optim_step", trainer.model_id)) == (2, 1)


@pytest.mark.rule(11)
@pytest.mark.parametrize("fault", ["request lost", "answer lost", "answer cut"])
@pytest.mark.parametrize("name", ["skyrl", "miles"])
def test_where_repeats_are_known_again_a_lost_step_is_sent_until_it_is_answered(
    through_proxy: Callable[..., Any], engine: RecordingEngine, name: str, fault: Fault
) -> None:
    vouched_for = DIALECTS[name].with_known(Evidence("given"), seq_id_repeats="repeats")
    trainer, proxy = through_proxy(name, vouched_for)
    trainer.forward_backward(batch(1), "cross_entropy").result()
    proxy.faults.append(("optim_step", fault))
    trainer.optim_step(STEP).result()
    assert (proxy.count("optim_step"), engine.count("optim_step", trainer.model_id)) == (2, 1)


@pytest.mark.rule(11)
@pytest.mark.parametrize(
    ("name", "dialect"),
    [("open-rl", None), ("open-rl", "open-rl"), ("skyrl-0.3", None), ("arctic", None)],
)
def test_where_repeats_are_applied_twice_a_lost_step_is_not_sent_again(
    through_proxy: Callable[..., Any], engine: RecordingEngine, name: str, dialect: str | None
) -> None:
    trainer, proxy = through_proxy(name, dialect)
    trainer.forward_backward(batch(1), "cross_entropy").result()
    proxy.faults.append(("optim_step", "answer lost"))
    with pytest.raises(StepOutcomeUnknown):
        trainer.optim_step(STEP).result()
    assert proxy.count("optim_step") == 1


# ---- 13, 14, 15: models, tokenizers, samplers ----


@pytest.mark.rule(13)
@pytest.mark.parametrize(
    "name",
    ["tuft", "skyrl-0.3", "miles", "twinkle", "hatchery", "open-rl", "mlx-tinker", "verl", "xorl"],
)
@pytest.mark.parametrize("with_optimizer", [False, True])
def test_a_model_is_made_from_a_checkpoint_by_a_load_as_its_first_request(
    service_of: Callable[..., Any],
    engine: RecordingEngine,
    wire: Wire,
    name: str,
    with_optimizer: bool,
) -> None:
    if name == "skyrl-0.3" and not with_optimizer:
        pytest.skip(
            "it has none without the optimizer's state (tests/both/test_measured_servers.py)"
        )
    service = service_of(name)
    path = service.create_lora_training_client(BASE, rank=4).save_state("one").result().path
    resume = "create_training_client_from_state" + ("_with_optimizer" if with_optimizer else "")
    resumed = getattr(service, resume)(path)
    assert calls_of(engine, resumed.model_id) == ["create_model", "load_model"]
    body = wire.of("load_weights")[-1].body
    assert (body["model_id"], body["seq_id"], body["optimizer"]) == (
        resumed.model_id,
        1,
        with_optimizer,
    )
    assert wire.of("create_model")[-1].body["lora_config"]["rank"] == 4
    resumed.forward_backward(batch(1), "cross_entropy").result()


@pytest.mark.rule(13)
def test_a_model_is_made_from_a_checkpoint_by_the_session(
    service_of: Callable[..., Any], engine: RecordingEngine, wire: Wire
) -> None:
    service = service_of("tinkex")
    path = service.create_lora_training_client(BASE, rank=4).save_state("one").result().path
    resumed = service.create_training_client_from_state(path)
    [sent] = wire.of("load_weights")
    assert sent.body.keys() >= {"session_id", "model_seq_id"}
    assert len(wire.of("create_model")) == 1
    assert calls_of(engine, resumed.model_id) == ["create_model", "load_model"]


@pytest.mark.rule(13)
def test_a_model_is_made_from_a_checkpoint_by_create_model(
    service_of: Callable[..., Any], wire: Wire
) -> None:
    service = service_of("tinker-cloud-old")
    path = service.create_lora_training_client(BASE, rank=4).save_state("one").result().path
    resumed = service.create_training_client_from_state(path)
    assert wire.of("create_model")[-1].body["checkpoint_path"] == path
    assert wire.of("load_weights") == []
    resumed.forward_backward(batch(1), "cross_entropy").result()


@pytest.mark.rule(13)
def test_where_no_model_can_be_made_from_a_checkpoint_nothing_is_sent(
    service_of: Callable[..., Any], wire: Wire
) -> None:
    service = service_of("arctic", "arctic")
    with pytest.raises(UnsupportedByServer, match="load_weights"):
        service.create_training_client_from_state("/any/folder", BASE)
    assert wire.of("create_model") == []


@pytest.mark.rule(13)
def test_the_shape_of_a_checkpoint_is_asked_for_and_may_be_given(
    connect: Callable[..., Any], serve: Callable[..., str], wire: Wire
) -> None:
    url = serve("tuft")
    path = connect(url).create_lora_training_client(BASE, rank=4).save_state("one").result().path
    assert connect(url).create_training_client_from_state(path).base_model == BASE
    assert wire.of("create_model")[-1].body["lora_config"]["rank"] == 4
    assert len(wire.of("weights_info")) == 1
    connect(url).create_training_client_from_state(path, BASE, rank=4)
    assert len(wire.of("weights_info")) == 1


@pytest.mark.rule(14)
@pytest.mark.parametrize(
    "name", ["tuft", "skyrl-0.3", "arctic", "xorl", "tinker-cloud", "hatchery"]
)
def test_the_tokenizer_is_found_whatever_get_info_says(
    service_of: Callable[..., Any], name: str
) -> None:
    """xorl has no get_info; others say little."""
    tokenizer = service_of(name).create_lora_training_client(BASE, rank=4).get_tokenizer()
    assert tokenizer.encode("hi") == [104, 105]


@pytest.mark.rule(15)
@pytest.mark.parametrize(
    "name",
    [
        "tinkex",
        "tuft",
        "skyrl-0.3",
        "tinker-cloud",
        "twinkle",
        "miles",
        "open-rl",
        "open-rl-old",
        "arctic",
    ],
)
def test_a_models_own_sampler_is_found_by_its_id(
    service_of: Callable[..., Any], wire: Wire, name: str
) -> None:
    trainer = service_of(name).create_lora_training_client(BASE, rank=4)
    sampler = trainer.save_weights_and_get_sampling_client()
    assert sampler.sample([5], 1, {"max_tokens": 1, "temperature": 1.0}).result().sequences[
        0
    ].tokens == [5, 1]
    assert wire.of("asample")[-1].body["sampling_session_id"] == sampler.sampling_session_id
    assert wire.of("create_sampling_session") == []


@pytest.mark.rule(15)
@pytest.mark.parametrize(
    ("name", "scheme"), [("tuft", "tinker://"), ("twinkle", "twinkle://"), ("open-rl", "tinker://")]
)
def test_saved_weights_are_sampled_by_their_path_in_the_servers_own_form(
    service_of: Callable[..., Any], name: str, scheme: str
) -> None:
    service = service_of(name)
    path = (
        service.create_lora_training_client(BASE, rank=4)
        .save_weights_for_sampler("one")
        .result()
        .path
    )
    assert path.startswith(scheme)
    assert service.create_sampling_client(path, BASE).sample(
        [5], 1, {"max_tokens": 1}
    ).result().sequences[0].tokens == [5, 1]


@pytest.mark.rule(15)
def test_an_id_with_slashes_is_one_piece_of_a_url(
    service_of: Callable[..., Any], wire: Wire
) -> None:
    service = service_of("open-rl")
    path = (
        service.create_lora_training_client(BASE, rank=4)
        .save_weights_for_sampler("one")
        .result()
        .path
    )
    sampler = service.create_sampling_client(path)
    assert "/" in sampler.sampling_session_id
    call = f"samplers/{sampler.sampling_session_id.replace('/', '%2F')}"
    wire.instead[call] = Answer(
        200,
        Headers(),
        orjson.dumps({"sampler_id": sampler.sampling_session_id, "base_model": BASE}),
    )
    assert sampler.get_base_model() == BASE
    assert wire.statuses(call) == [200]


# ---- 16, 17: keys, errors, answers ----


@pytest.mark.rule(16)
def test_twinkle_is_told_before_anything_is_made_so_that_all_is_of_one_tenant(
    service_of: Callable[..., Any], wire: Wire
) -> None:
    """Its tenant is the bearer token, and its first answer tells it."""
    trainer = service_of("twinkle").create_lora_training_client(BASE, rank=4)
    trainer.save_weights_for_sampler("later").result()
    with_bearer = {
        exchange.operation for exchange in wire.exchanges if "authorization" in exchange.headers
    }
    assert {exchange.operation for exchange in wire.exchanges} - with_bearer == {
        *("client/config", "get_server_capabilities", "healthz"),
    }


BEARER_ALONE = evolve(PROFILES["twinkle"], auth=Auth(headers=("authorization",)))


@pytest.mark.rule(16)
def test_the_key_goes_as_a_bearer_where_the_other_form_is_refused(
    connect: Callable[..., Any],
    serve: Callable[..., str],
    wire: Wire,
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = connect(serve(BEARER_ALONE, api_key="tml-test"))
    service.create_lora_training_client(BASE, rank=4).forward_backward(
        batch(1), "cross_entropy"
    ).result()
    refused = [exchange for exchange in wire.exchanges if exchange.status == 401]
    assert len(refused) == 1
    assert "authorization" not in refused[0].headers
    assert {exchange.headers.get("authorization") for exchange in wire.of("forward_backward")} == {
        "Bearer tml-test"
    }
    assert {exchange.headers.get("x-api-key") for exchange in wire.exchanges} == {"tml-test"}
    assert service.server.bearer
    assert sum("Authorization: Bearer" in record.message for record in caplog.records) == 1


@pytest.mark.rule(16)
def test_a_wrong_key_is_refused_in_both_forms(
    connect: Callable[..., Any], serve: Callable[..., str]
) -> None:
    with pytest.raises(AuthenticationError):
        connect(serve(BEARER_ALONE, api_key="tml-another")).create_lora_training_client(BASE)


@pytest.mark.rule(16)
def test_no_key_is_sent_where_there_is_none_and_a_session_keeps_its_request_id(
    connect: Callable[..., Any],
    serve: Callable[..., str],
    wire: Wire,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TINKER_API_KEY", raising=False)
    connect(serve("twinkle"), api_key=None).create_lora_training_client(BASE, rank=4)
    assert not any(
        {"x-api-key", "authorization"} & exchange.headers.keys() for exchange in wire.exchanges
    )
    [_] = {exchange.headers["x-request-id"] for exchange in wire.exchanges}


@pytest.mark.rule(17)
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"detail": "no such model"}', "no such model"),
        (
            b'{"detail": [{"loc": ["body", "a"], "msg": "is missing", "type": "missing"}]}',
            "body.a: is missing",
        ),
        (b'{"detail": {"reason": "full"}}', "full"),
        (b'{"error": "no such model", "status_code": 404, "path": "/x"}', "no such model"),
        (b'{"type": "RequestFailedResponse", "error_message": "no such model"}', "no such model"),
        (b'{"message": "no such model"}', "no such model"),
        (b"upstream is away", "upstream is away"),
        (b"<html><body>502 Bad Gateway</body></html>", "502 Bad Gateway"),
        (b"", "Not Found"),
        (b"[1]", "Not Found"),
    ],
)
def test_every_form_of_an_error_is_read(content: bytes, words: str) -> None:
    error = failures.status_error(Answer(404, Headers(), content), "get_info")
    assert words in error.message


@pytest.mark.rule(17)
@pytest.mark.parametrize(("name", "status"), [("tuft", 204), ("twinkle", 200)])
def test_a_deletion_may_be_answered_by_nothing(
    service_of: Callable[..., Any], wire: Wire, name: str, status: int
) -> None:
    service = service_of(name)
    trainer = service.create_lora_training_client(BASE, rank=4)
    trainer.save_state("one").result()
    rest = service.create_rest_client()
    [saved] = rest.list_checkpoints(trainer.model_id).checkpoints
    rest.delete_checkpoint(trainer.model_id, saved.checkpoint_id)
    assert wire.exchanges[-1].status == status
    assert rest.list_checkpoints(trainer.model_id).checkpoints == []


# ---- 18, 19: limits and losses ----


@pytest.mark.rule(18)
def test_chunks_are_smaller_after_a_429(service_of: Callable[..., Any], wire: Wire) -> None:
    service = service_of(evolve(PROFILES["miles"]))
    trainer = service.create_lora_training_client(BASE, rank=4)
    before = service.server.chunk_limits
    wire.instead["forward_backward"] = Answer(429, Headers([("retry-after-ms", "1")]))
    trainer.forward_backward(batch(2), "cross_entropy").result()
    after = service.server.chunk_limits
    assert (after.max_items, after.max_size) == (before.max_items // 2, before.max_size // 2)


@pytest.mark.rule(18)
def test_the_servers_own_limits_of_chunks_are_kept(
    service_of: Callable[..., Any], wire: Wire
) -> None:
    usual = PROFILES["tuft"].replies["client/config"]
    replies = {"client/config": evolve(usual, body={**usual.body, "fwdbwd_max_chunk_len": 2})}
    trainer = service_of(evolve(PROFILES["tuft"], replies=replies)).create_lora_training_client(
        BASE, rank=4
    )
    outputs = trainer.forward_backward(batch(5), "cross_entropy").result().loss_fn_outputs
    assert [output["logprobs"].tolist() for output in outputs] == [
        [-1.0],
        [-2.0],
        [-3.0],
        [-4.0],
        [-5.0],
    ]
    assert len(wire.of("forward_backward")) == 3


@pytest.mark.rule(18)
def test_a_limit_of_0_means_no_limit(service_of: Callable[..., Any]) -> None:
    """verl gives semaphores of size 0."""
    service = service_of("verl")
    trainer, sampler = (
        service.create_lora_training_client(BASE, rank=4),
        service.create_sampling_client(base_model=BASE),
    )
    assert len(trainer.forward_backward(batch(3), "cross_entropy").result().loss_fn_outputs) == 3
    assert all(sampler.sample([5], 1, {"max_tokens": 1}).result().sequences for _ in range(3))


@pytest.mark.rule(18)
def test_more_samples_than_a_server_gives_in_one_request(
    service_of: Callable[..., Any], wire: Wire
) -> None:
    sampler = service_of("miles").create_sampling_client(base_model=BASE)
    assert len(sampler.sample([5], 65, {"max_tokens": 1}).result().sequences) == 65
    assert sorted(exchange.body["num_samples"] for exchange in wire.of("asample")) == [1, 64]


PAIR = [
    Datum(
        ModelInput.from_ints([5]), {"target_tokens": [5], "logprobs": [-1.0], "advantages": [1.0]}
    )
] * 2
"""A batch of reinforcement learning."""


@pytest.mark.rule(19)
@pytest.mark.parametrize("loss_fn", ["ppo", "cispo", "mine"])
def test_a_loss_that_would_be_trained_as_another_one_is_refused_before_anything_is_sent(
    service_of: Callable[..., Any], wire: Wire, loss_fn: str
) -> None:
    trainer = service_of("twinkle", "twinkle").create_lora_training_client(BASE, rank=4)
    with pytest.raises(UnsupportedByServer, match=loss_fn) as caught:
        trainer.forward_backward(PAIR if loss_fn != "mine" else batch(1), loss_fn)
    assert "cross_entropy, importance_sampling" in (caught.value.advice or "")
    assert wire.of("forward_backward") == []


@pytest.mark.rule(19)
@pytest.mark.parametrize(
    ("name", "loss_fn", "words"),
    [("twinkle", "importance_sampling", "GRPO"), ("tinker-cloud", "ppo", "plain importance")],
)
def test_a_loss_with_a_different_formula_causes_one_warning(
    service_of: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    name: str,
    loss_fn: str,
    words: str,
) -> None:
    trainer = service_of(name, name).create_lora_training_client(BASE, rank=4)
    for _ in range(2):
        trainer.forward_backward(PAIR, loss_fn).result()
    assert sum(words in record.message for record in caplog.records) == 1


@pytest.mark.rule(19)
@pytest.mark.parametrize("name", ALL_BUT_HOSTED)
def test_a_custom_loss_works_everywhere(
    service_of: Callable[..., Any], engine: RecordingEngine, name: str
) -> None:
    """A forward_backward whose weights are 0 replaces the forward that a server lacks."""

    def summed(data: Any, logprobs: Any) -> Any:
        return (
            -float(sum(row.sum() for row in logprobs)),
            [-1 + 0 * row for row in logprobs],
            {"mine": 2.0},
        )

    trainer = service_of(name).create_lora_training_client(BASE, rank=4)
    output = trainer.forward_backward_custom([datum(5, 7)], NumpyLoss(summed)).result()
    assert (output.metrics["loss:sum"], output.metrics["mine"]) == (12.0, 2.0)
    forward = "forward_backward" if name.startswith("open-rl") else "forward"
    assert calls_of(engine, trainer.model_id) == ["create_model", forward, "forward_backward"]


# ---- all of them ----


def test_every_rule_has_a_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    from servers_doc import marked_tests

    assert marked_tests().keys() == RULES.keys()

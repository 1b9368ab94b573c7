"""Training through both facades, against the embedded server over a real socket."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from attrs import evolve

import tinkex.local
from tests.support.batches import batch, datum, text_datum
from tests.support.recording_engine import RecordingEngine
from tests.support.wait_until import wait_until
from tinkex import (
    AdamParams,
    ArgumentError,
    BadRequestError,
    ChunkLimits,
    Config,
    Datum,
    DimuonParams,
    InvalidInputError,
    ModelInput,
    NotFoundError,
    OptimizerConfig,
    RequestFailedError,
    RequestSkippedError,
    ServerStateLostError,
    SgdParams,
    UnprocessableEntityError,
    UnsupportedByServer,
)
from tinkex.dialects.table import DIALECTS
from tinkex.local import Server


@pytest.fixture
def trainer(service: Any) -> Any:
    return service.create_lora_training_client("fake/base", rank=4)


def numbers_of(engine: RecordingEngine, model_id: str) -> list[tuple[str, ...]]:
    return [(call[0], *call[2:]) for call in engine.calls if call[1] == model_id]


def test_a_model_learns_and_is_sampled_from_its_saved_weights(
    connect: Callable[..., Any], torch_server: Server
) -> None:
    service = connect(torch_server.base_url)
    trainer = service.create_lora_training_client("tinkex/tiny", rank=16, seed=3)
    data = [text_datum("the answer is", " 42\n")] * 4
    losses = []
    for _ in range(12):
        losses.append(trainer.forward_backward(data, "cross_entropy"))
        trainer.optim_step(AdamParams(learning_rate=4e-3))
    first, last = (losses[index].result().metrics["loss:sum"] for index in (0, -1))
    assert last < first / 4

    path = trainer.save_weights_for_sampler("learned").result().path
    tokenizer = trainer.get_tokenizer()
    for sampler in (
        trainer.save_weights_and_get_sampling_client(),
        service.create_sampling_client(model_path=path),
    ):
        sampled = sampler.sample(
            tokenizer.encode("the answer is"),
            1,
            {"temperature": 0.0, "max_tokens": 6, "stop": ["\n"]},
        )
        assert tokenizer.decode(sampled.result().sequences[0].tokens) == " 42\n"
    logprobs = sampler.compute_logprobs(tokenizer.encode("the answer is 42")).result()
    assert logprobs[0] is None
    trained = (
        trainer.forward(data[:1], "cross_entropy")
        .result()
        .loss_fn_outputs[0]["logprobs"]
        .to_numpy()
    )
    assert logprobs[-3:] == pytest.approx(trained[-4:-1].tolist(), abs=1e-4)


def test_forward_leaves_the_model_as_it_is(
    connect: Callable[..., Any], torch_server: Server
) -> None:
    trainer = connect(torch_server.base_url).create_lora_training_client(
        "tinkex/tiny", rank=4, seed=3
    )
    data = [text_datum("ab", "cd")]
    first = trainer.forward(data, "cross_entropy").result().metrics["loss:sum"]
    trainer.optim_step(AdamParams(learning_rate=1.0)).result()
    assert trainer.forward(data, "cross_entropy").result().metrics["loss:sum"] == first


@pytest.mark.parametrize("loss_fn", ["importance_sampling", "ppo", "cispo"])
def test_each_loss_of_reinforcement_learning_trains(
    connect: Callable[..., Any], torch_server: Server, loss_fn: str
) -> None:
    trainer = connect(torch_server.base_url).create_lora_training_client(
        "tinkex/tiny", rank=4, seed=3
    )
    tokens, advantages = list(b"abcd"), np.array([0.0, 1.0, -1.0], np.float32)
    prompt, targets = ModelInput.from_ints(tokens[:-1]), tokens[1:]
    known = Datum(
        model_input=prompt, loss_fn_inputs={"target_tokens": targets, "weights": [1.0] * 3}
    )
    logprobs = (
        trainer.forward([known], "cross_entropy").result().loss_fn_outputs[0]["logprobs"].to_numpy()
    )
    data = Datum(
        model_input=prompt,
        loss_fn_inputs={"target_tokens": targets, "logprobs": logprobs, "advantages": advantages},
    )
    result = trainer.forward_backward([data], loss_fn).result()
    # at a ratio of 1, the loss is -sum(A), or -sum(A * logprob) for cispo
    expected = -(advantages * (logprobs if loss_fn == "cispo" else 1.0)).sum()
    assert result.metrics["loss:sum"] == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.rule(10)
def test_calls_run_in_the_order_in_which_they_were_made(
    trainer: Any, server_engine: RecordingEngine
) -> None:
    futures = []
    for token in range(1, 6):
        futures.append(trainer.forward_backward([datum(token)], "cross_entropy"))
        futures.append(trainer.optim_step(AdamParams(learning_rate=token / 10)))
    for future in reversed(futures):  # whatever the order in which they are waited for
        future.result()
    expected = [
        call
        for token in range(1, 6)
        for call in (("forward_backward", str(token)), ("optim_step", str(token / 10)))
    ]
    assert numbers_of(server_engine, trainer.model_id)[1:] == expected


@pytest.mark.rule(18)
@pytest.mark.parametrize("parallel", [True, False], ids=["together", "one-after-another"])
def test_a_large_batch_is_split_and_put_together_in_order(
    connect: Callable[..., Any],
    server: Server,
    server_engine: RecordingEngine,
    monkeypatch: pytest.MonkeyPatch,
    parallel: bool,
) -> None:
    from tinkex_server.routes import server as routes

    monkeypatch.setattr(routes.FLAGS, "parallel_fwdbwd_chunks", parallel)
    config = Config(
        base_url=server.base_url, api_key="tml-x", chunk_limits=ChunkLimits(max_items=10)
    )
    trainer = connect(server.base_url, config=config).create_lora_training_client(
        "fake/base", rank=4
    )
    data = batch(35)
    result = trainer.forward_backward(data, "cross_entropy").result()
    outputs = [float(output["logprobs"].to_numpy()[0]) for output in result.loss_fn_outputs]
    assert outputs == [-float(1 + index) for index in range(35)]
    assert result.metrics["loss:sum"] == sum(range(1, 36))
    calls = [
        call
        for call in numbers_of(server_engine, trainer.model_id)
        if call[0] == "forward_backward"
    ]
    assert calls == [("forward_backward", str(first)) for first in (1, 11, 21, 31)]


@pytest.mark.parametrize(
    ("data", "loss_fn", "words"),
    [
        ([], "cross_entropy", "empty"),
        ([datum()], "cross_entropy", "data[0]"),
        (
            [Datum(model_input=ModelInput.from_ints([1]), loss_fn_inputs={"weights": [1.0]})],
            "cross_entropy",
            "target_tokens",
        ),
    ],
    ids=["empty batch", "empty datum", "missing input"],
)
def test_a_bad_batch_is_refused_at_the_call(
    trainer: Any, server_engine: RecordingEngine, data: list[Datum], loss_fn: str, words: str
) -> None:
    before = len(server_engine.calls)
    with pytest.raises(InvalidInputError) as caught:
        trainer.forward_backward(data, loss_fn)
    assert words in str(caught.value)
    assert caught.value.fault == "user"
    assert len(server_engine.calls) == before
    trainer.forward_backward([datum(1)], "cross_entropy").result()  # nothing was lost by it


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"target_tokens": [1]}, "target_tokens.*1 values for 2 tokens"),
        ({"target_tokens": ["a", "b"]}, "target_tokens"),
        ({"target_tokens": [[1], [2, 3]]}, "target_tokens"),
        ({"target_tokens": [None, 1]}, "target_tokens"),
        ({"target_tokens": [1, 2], "weights": [1.0, math.nan]}, "weights"),
    ],
    ids=["ragged", "texts", "ragged lists", "None", "NaN"],
)
def test_bad_loss_inputs_are_refused_when_the_datum_is_made(inputs: Any, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        Datum(model_input=ModelInput.from_ints([1, 2]), loss_fn_inputs=inputs)


def test_a_token_out_of_range_fails_that_request_alone(
    connect: Callable[..., Any], torch_server: Server
) -> None:
    trainer = connect(torch_server.base_url).create_lora_training_client("tinkex/tiny", rank=4)
    wrong = trainer.forward_backward([datum(1), datum(70_000)], "cross_entropy")
    right = trainer.forward_backward([datum(1)], "cross_entropy")
    with pytest.raises(RequestFailedError, match=r"data\[1\].*70000.*0 to 256") as caught:
        wrong.result()
    assert caught.value.category == "user"
    assert right.result().loss_fn_outputs


def test_a_failure_of_the_server_is_named_as_such(trainer: Any) -> None:
    with pytest.raises(RequestFailedError, match="ZeroDivisionError") as caught:
        trainer.forward_backward([datum(98)], "cross_entropy").result()
    assert (caught.value.category, caught.value.operation) == ("server", "forward_backward")
    assert caught.value.request_id


def test_a_refused_request_skips_what_was_queued_behind_it_and_the_client_goes_on(
    trainer: Any,
) -> None:
    refused = trainer.forward_backward([datum(1)], "no_such_loss")
    queued = trainer.optim_step(AdamParams())
    with pytest.raises(Exception, match="no_such_loss"):
        refused.result()
    with pytest.raises(RequestSkippedError):
        queued.result()
    trainer.forward_backward([datum(1)], "cross_entropy").result()
    trainer.optim_step(AdamParams()).result()


def test_a_call_of_a_lost_session_says_so_even_after_a_failure_that_nobody_read(
    trainer: Any,
) -> None:
    unread = trainer.forward_backward([datum(1)], "no_such_loss")
    wait_until(unread.done)
    getattr(trainer, "_client", trainer)._session.lifecycle.lost = True
    with pytest.raises(ServerStateLostError, match=r"session .* any more"):
        trainer.forward([datum(1)], "cross_entropy").result()
    with pytest.raises(Exception, match="no_such_loss"):
        unread.result()


def test_an_invalid_checkpoint_name_is_refused(trainer: Any) -> None:
    with pytest.raises(InvalidInputError):
        trainer.save_weights_for_sampler("a/b")
    with pytest.raises(UnprocessableEntityError):
        trainer.save_weights_for_sampler("..").result()


def test_a_name_of_another_type_is_refused(trainer: Any) -> None:
    with pytest.raises(ArgumentError, match="must be a string, found 5"):
        trainer.save_state(5)


def test_a_loss_of_ones_own_is_led_to_the_call_that_takes_it(trainer: Any) -> None:
    with pytest.raises(ArgumentError, match="forward_backward_custom"):
        trainer.forward_backward([datum(1)], lambda data, logprobs: 0)
    trainer.forward_backward([datum(1)], "cross_entropy").result()


def test_what_cannot_be_encoded_is_a_refusal_and_no_unknown_outcome(trainer: Any) -> None:
    with pytest.raises(InvalidInputError, match="cannot be encoded"):
        trainer.save_state("\ud800").result()  # half of a character: no UTF-8 has it
    trainer.forward_backward([datum(1)], "cross_entropy").result()
    trainer.optim_step(AdamParams()).result()


def test_get_info_describes_the_model(trainer: Any) -> None:
    info = trainer.get_info()
    assert (info.model_id, info.model_data.model_name, info.lora_rank) == (
        trainer.model_id,
        "fake/base",
        4,
    )


def test_saved_weights_are_listed_and_deleted(service: Any, trainer: Any) -> None:
    rest = service.create_rest_client()
    path = trainer.save_weights_for_sampler("one").result().path
    assert rest.list_training_runs(limit=1).training_runs[0].training_run_id == trainer.model_id
    [checkpoint] = rest.list_checkpoints(trainer.model_id).checkpoints
    assert (checkpoint.tinker_path, checkpoint.checkpoint_type) == (path, "sampler")
    rest.delete_checkpoint(trainer.model_id, checkpoint.checkpoint_id)
    assert rest.list_checkpoints(trainer.model_id).checkpoints == []
    with pytest.raises(NotFoundError):
        rest.delete_checkpoint(trainer.model_id, checkpoint.checkpoint_id)
    with pytest.raises(InvalidInputError):
        rest.delete_checkpoint(trainer.model_id, "one")


def test_a_custom_loss_trains_as_the_servers_own_does(
    connect: Callable[..., Any], torch_server: Server
) -> None:
    import torch

    service = connect(torch_server.base_url)
    data = [text_datum("the answer is", " 42\n"), text_datum("ab", "cd")]

    def cross_entropy(
        data: Any, logprobs: list[torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        weights = [datum.loss_fn_inputs["weights"].to_torch() for datum in data]
        return -sum((w * x).sum() for w, x in zip(weights, logprobs, strict=True)), {"mine": 1.0}

    own, custom = (
        service.create_lora_training_client("tinkex/tiny", rank=4, seed=3) for _ in range(2)
    )
    for _ in range(3):
        expected = own.forward_backward(data, "cross_entropy").result().metrics["loss:sum"]
        own.optim_step(AdamParams(learning_rate=5e-3))
        found = custom.forward_backward_custom(data, cross_entropy)
        custom.optim_step(AdamParams(learning_rate=5e-3)).result()
        assert found.result().metrics["loss:sum"] == pytest.approx(expected, rel=1e-4)
        assert found.result().metrics["mine"] == 1.0


def test_a_custom_loss_that_fails_holds_back_the_step_that_was_to_follow(trainer: Any) -> None:
    from tinkex import NumpyLoss

    def broken(data: Any, logprobs: Any) -> Any:
        raise ZeroDivisionError("mine")

    failed = trainer.forward_backward_custom([datum(1)], NumpyLoss(broken))
    step = trainer.optim_step(AdamParams())
    with pytest.raises(ZeroDivisionError, match="mine"):
        failed.result()
    with pytest.raises(RequestSkippedError):
        step.result()
    trainer.train_step([datum(1)], "cross_entropy", AdamParams()).result()


def test_a_call_that_the_server_is_known_to_lack_leaves_the_model_usable(
    connect: Callable[..., Any], server: Server
) -> None:
    dialect = evolve(DIALECTS["tinkex"], missing={"save_weights_external": "Save it elsewhere."})
    service = connect(server.base_url, config=Config(base_url=server.base_url, dialect=dialect))
    trainer = service.create_lora_training_client("fake/base", rank=4)
    with pytest.raises(UnsupportedByServer, match="Save it elsewhere"):
        trainer.save_weights_external("one").result()
    trainer.train_step([datum(1)], "cross_entropy", AdamParams()).result()


@pytest.mark.rule(13)
def test_training_resumes_from_a_saved_state(
    connect: Callable[..., Any], torch_server: Server
) -> None:
    service = connect(torch_server.base_url)
    data, adam = [text_datum("the answer is", " 42\n")], AdamParams(learning_rate=5e-3)
    trainer = service.create_lora_training_client("tinkex/tiny", rank=4, seed=3)
    for _ in range(3):
        trainer.train_step(data, "cross_entropy", adam)
    path = trainer.save_state("three").result().path
    on = [trainer.train_step(data, "cross_entropy", adam) for _ in range(3)]
    resumed = service.create_training_client_from_state_with_optimizer(path)
    again = [resumed.train_step(data, "cross_entropy", adam) for _ in range(3)]
    losses, losses_again = (
        [step.result().forward_backward.metrics["loss:sum"] for step in steps]
        for steps in (on, again)
    )
    assert losses_again == losses
    afresh = service.create_training_client_from_state(path)
    assert (
        afresh.train_step(data, "cross_entropy", adam).result().forward_backward.metrics["loss:sum"]
        == losses[0]
    )
    assert (
        afresh.train_step(data, "cross_entropy", adam).result().forward_backward.metrics["loss:sum"]
        != losses[1]
    )


def test_weights_are_loaded_into_an_existing_model(
    connect: Callable[..., Any], torch_server: Server
) -> None:
    service = connect(torch_server.base_url)
    data = [text_datum("ab", "cd")]
    trainer = service.create_lora_training_client("tinkex/tiny", rank=4, seed=3)
    trainer.train_step(data, "cross_entropy", AdamParams(learning_rate=1e-2)).result()
    path = trainer.save_state("one").result().path
    other = service.create_lora_training_client("tinkex/tiny", rank=4, seed=4)
    other.load_state_with_optimizer(path).result()
    assert (
        other.forward(data, "cross_entropy").result().metrics
        == trainer.forward(data, "cross_entropy").result().metrics
    )
    with pytest.raises(RequestFailedError, match="rank"):
        service.create_lora_training_client("tinkex/tiny", rank=8).load_state(path).result()


def test_a_name_can_be_saved_again_only_with_overwrite(trainer: Any) -> None:
    trainer.save_state("one").result()
    with pytest.raises(RequestFailedError, match="one"):
        trainer.save_state("one").result()
    assert trainer.save_state("one", overwrite=True).result().path.endswith("/weights/one")


def test_an_unloaded_model_is_gone(trainer: Any) -> None:
    trainer.train_step([datum(1)], "cross_entropy", AdamParams())
    trainer.unload_model()
    with pytest.raises(NotFoundError):
        trainer.optim_step(AdamParams()).result()


@pytest.mark.parametrize(
    "given",
    [{}, {"optim_params": AdamParams(), "adam_params": AdamParams()}, {"optim_params": 1e-4}],
)
def test_optimizer_parameters_are_given_once_and_have_the_right_type(
    trainer: Any, given: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInputError):
        trainer.optim_step(**given)
    trainer.optim_step(adam_params=AdamParams()).result()


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("dimuon", DimuonParams(0.02)),
        ("sgd", SgdParams(0.002, momentum=0.5)),
        ("adamw", AdamParams(3e-3)),
    ],
)
def test_a_model_is_trained_by_the_optimizer_that_was_chosen(
    connect: Callable[..., Any], torch_server: Server, kind: str, params: Any
) -> None:
    service, data = connect(torch_server.base_url), [text_datum("ab", "cd")]
    trainer = service.create_lora_training_client(
        "tinkex/tiny", rank=4, seed=3, optimizer=OptimizerConfig(kind)
    )
    losses = [
        trainer.train_step(data, "cross_entropy", params)
        .result()
        .forward_backward.metrics["loss:sum"]
        for _ in range(4)
    ]
    assert losses == sorted(losses, reverse=True)
    path = trainer.save_state(kind).result().path
    followed = (
        trainer.train_step(data, "cross_entropy", params)
        .result()
        .forward_backward.metrics["loss:sum"]
    )
    loaded = service.create_training_client_from_state_with_optimizer(path)
    assert (
        loaded.train_step(data, "cross_entropy", params)
        .result()
        .forward_backward.metrics["loss:sum"]
        == followed
    )
    assert (
        loaded.forward(data, "cross_entropy").result().metrics
        == trainer.forward(data, "cross_entropy").result().metrics
    )
    wrong = SgdParams(0.1) if kind == "adamw" else AdamParams()
    with pytest.raises(BadRequestError, match=f"with the optimizer {kind}"):
        trainer.optim_step(wrong).result()


@pytest.mark.parametrize("loss_fn", ["dro", "gspo"])
def test_actions_with_a_positive_advantage_become_likelier(
    connect: Callable[..., Any], torch_server: Server, loss_fn: str
) -> None:
    trainer = connect(torch_server.base_url).create_lora_training_client(
        "tinkex/tiny", rank=4, seed=3
    )
    text = text_datum("ab", "cd")
    sampled = (
        trainer.forward([text], "cross_entropy").result().loss_fn_outputs[0]["logprobs"].to_numpy()
    )
    advantages = np.array([0.0, 1.0, -1.0], np.float32)
    inputs = {
        "target_tokens": text.loss_fn_inputs["target_tokens"],
        "logprobs": sampled,
        "advantages": advantages,
    }
    if loss_fn == "gspo":
        inputs["sequence_ratio_mask"] = np.array([0.0, 1.0, 1.0], np.float32)
    trainer.train_step([Datum(text.model_input, inputs)], loss_fn, AdamParams(3e-3)).result()
    change = (
        trainer.forward([text], "cross_entropy").result().loss_fn_outputs[0]["logprobs"].to_numpy()
        - sampled
    )
    assert (change[1] > 0, change[2] < 0) == (True, True)


def test_inflight_clients_follow_the_model_and_snapshots_do_not(
    connect: Callable[..., Any], torch_server: Server
) -> None:
    trainer = connect(torch_server.base_url).create_lora_training_client(
        "tinkex/tiny", rank=8, seed=3
    )
    prompt = list(b"forty two is 42")

    def logprob(sampler: Any) -> float:
        return sum(sampler.compute_logprobs(prompt).result()[1:])

    first, fixed = (
        trainer.save_weights_and_get_sampling_client(kind="inflight"),
        trainer.save_weights_and_get_sampling_client(),
    )
    before = logprob(first)
    trainer.train_step(
        [text_datum("forty two is", " 42")], "cross_entropy", AdamParams(learning_rate=1e-2)
    ).result()
    assert logprob(first) == before, "until they are saved"
    second = trainer.save_weights_and_get_sampling_client(kind="inflight")
    assert logprob(first) == logprob(second) != before
    assert logprob(fixed) == before
    assert first.sampling_session_id != second.sampling_session_id


def test_an_unknown_kind_of_sampler_weights_is_refused_at_the_call(trainer: Any) -> None:
    with pytest.raises(InvalidInputError, match="'mutable', not one of snapshot, inflight"):
        trainer.save_weights_and_get_sampling_client(kind="mutable")


def test_external_weights_are_saved_and_listed(trainer: Any) -> None:
    saved = trainer.save_weights_external("all", ttl_seconds=3600).result()
    assert (saved.path, saved.size_bytes) == (
        f"tinker://{trainer.model_id}/external_weights/all",
        5,
    )


def test_weights_are_copied_into_the_clients_project(
    connect: Callable[..., Any], server: Server, trainer: Any
) -> None:
    path = trainer.save_state("one").result().path
    config = Config(base_url=server.base_url, api_key="tml-test", project_id="proj-1")
    service = connect(server.base_url, config=config)
    copy = service.copy_weights(path, ttl_seconds=3600, weights_access_token="token")
    assert copy.endswith("/weights/one")
    assert copy != path
    assert service.create_training_client_from_state_with_optimizer(copy).base_model == "fake/base"


def test_without_a_project_weights_are_not_copied(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidInputError, match="needs a destination project"):
        service.copy_weights("tinker://a/weights/b")


def test_weights_are_saved_for_sampling_by_name_by_path_and_by_session_number(
    service: Any, trainer: Any
) -> None:
    named = trainer.save_weights_for_sampler("a").result()
    pathed = trainer.save_weights_for_sampler(path="b").result()
    assert named.path.endswith("/sampler_weights/a")
    assert pathed.path.endswith("/sampler_weights/b")
    assert (
        trainer.save_weights_for_sampler(sampling_session_seq_id=7)
        .result()
        .sampling_session_id.endswith(":7")
    )
    for given in ({}, {"name": "c", "path": "c"}, {"name": "c", "sampling_session_seq_id": 8}):
        with pytest.raises(InvalidInputError, match="one of name, path"):
            trainer.save_weights_for_sampler(**given)


def test_in_flight_weights_are_refused_where_they_would_be_a_snapshot(
    connect: Callable[..., Any], server: Server
) -> None:
    config = Config(base_url=server.base_url, dialect="open-rl")
    trainer = connect(server.base_url, config=config).create_lora_training_client(
        "fake/base", rank=4
    )
    with pytest.raises(
        UnsupportedByServer, match="open-rl is not known to support in-flight weights"
    ):
        trainer.save_weights_and_get_sampling_client(kind="inflight")


@pytest.mark.rule(1)
def test_leaving_a_client_frees_its_models_where_sessions_do_not_end(
    connect: Callable[..., Any], server_engine: RecordingEngine
) -> None:
    with tinkex.local.serve(engine=server_engine, profile="skyrl", hold=0.2) as server:
        service = connect(server.base_url, config=Config(base_url=server.base_url, dialect="skyrl"))
        one, other = (
            service.create_lora_training_client("fake/base", rank=4).model_id for _ in range(2)
        )
        service.close()
        wait_until(lambda: all(server_engine.count("unload_model", name) for name in (one, other)))
    assert [server_engine.count("unload_model", name) for name in (one, other)] == [1, 1]


def test_the_error_of_a_step_that_failed_is_not_its_own_cause(trainer: Any) -> None:
    with pytest.raises(RequestFailedError, match="token 99") as caught:
        trainer.forward_backward([datum(99)], "cross_entropy").result()
    assert caught.value.__cause__ is not caught.value

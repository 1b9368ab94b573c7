"""Every number that is sent is checked where the user called: of the type, finite, in range;
nothing non-finite becomes null.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tinkex_api.api.training import optim_step
from tinkex_api.models import OptimStepRequest
from tinkex_api.types import write_json

from tests.support.recording_engine import RecordingEngine
from tinkex import (
    AdamParams,
    Config,
    Datum,
    DimuonParams,
    InvalidInputError,
    RequestSkippedError,
    SgdParams,
    UnprocessableEntityError,
)
from tinkex.dialects.dialect import Dialect
from tinkex.local import Server
from tinkex.losses.batch_checks import check_batch
from tinkex.losses.named import warn_of_mask
from tinkex.transport.server import Server as ServerState

NOT_FINITE = [math.nan, math.inf, -math.inf]
DATUM = Datum([5, 6], {"target_tokens": [6, 7], "weights": [1.0, 1.0]})


@pytest.fixture
def trainer(service: Any) -> Any:
    return service.create_lora_training_client("fake/base", rank=4)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(
            (AdamParams, name)
            for name in ("learning_rate", "beta1", "beta2", "eps", "weight_decay", "grad_clip_norm")
        ),
        *((DimuonParams, name) for name in ("learning_rate", "beta1", "grad_clip_norm")),
        *(
            (SgdParams, name)
            for name in ("learning_rate", "momentum", "weight_decay", "grad_clip_norm")
        ),
    ],
)
def test_settings_of_an_optimizer(
    trainer: Any, server_engine: RecordingEngine, kind: Any, name: str
) -> None:
    before = [call for call in server_engine.calls if call[0] == "optim_step"]
    wrong = [
        *NOT_FINITE,
        -1.0,
        None,
        "0.1",
        True,
        *([1.0] if name in ("beta1", "beta2", "momentum") else []),
    ]
    for value in wrong:
        with pytest.raises(
            InvalidInputError,
            match=rf"optim_params\.{name} must be a finite number .*found {value!r}",
        ):
            trainer.optim_step(kind(**{"learning_rate": 1e-3, name: value}))
    assert [call for call in server_engine.calls if call[0] == "optim_step"] == before


def test_changes_after_the_call_are_not_sent(trainer: Any, server_engine: RecordingEngine) -> None:
    params = AdamParams(learning_rate=np.float32(0.5))
    updates = []
    for _ in range(4):
        updates.append(trainer.optim_step(params))
        params.learning_rate *= 2
    rates = [update.result().metrics["learning_rate"] for update in updates]
    assert rates == [0.5, 1.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"seed": 2**70}, "seed must be an int that fits in 64 bits"),
        ({"seed": 1.0}, "seed must be an int"),
        ({"seed": True}, "seed must be an int"),
        ({"max_tokens": 2**63}, "max_tokens must be an int of 1 or more"),
        ({"max_tokens": 0}, "max_tokens must be an int of 1 or more"),
        ({"temperature": math.nan}, "temperature must be"),
        ({"temperature": math.inf}, "temperature must be"),
        ({"top_p": math.nan}, "top_p must be"),
        ({"top_k": True}, "top_k must be"),
        ({"stop": [1.5]}, "stop must be"),
    ],
)
def test_sampling_params(service: Any, params: dict[str, Any], words: str) -> None:
    sampler = service.create_sampling_client(base_model="fake/base")
    with pytest.raises(InvalidInputError, match=words):
        sampler.sample([5], 1, {"max_tokens": 1, **params})


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_samples": 1.0},
        {"num_samples": True},
        {"num_samples": 0},
        {"topk_prompt_logprobs": 1.5},
        {"topk_sample_logprobs": -1},
        {"prompt_alt_tokens_k": "2"},
        {"prompt_logprobs_last_n": 1.0, "prompt_logprobs": True},
    ],
)
def test_the_options_of_a_sample(service: Any, arguments: dict[str, Any]) -> None:
    sampler = service.create_sampling_client(base_model="fake/base")
    name = next(iter(arguments))
    with pytest.raises(InvalidInputError, match=f"{name} must be an int"):
        sampler.sample([5], **{"num_samples": 1, "sampling_params": {"max_tokens": 1}, **arguments})


@pytest.mark.parametrize(
    "arguments",
    [{"rank": 4.0}, {"rank": -1}, {"rank": True}, {"rank": 2**40}, {"seed": 2**70}, {"seed": 0.5}],
)
def test_the_shape_of_a_model(service: Any, arguments: dict[str, Any]) -> None:
    [name] = arguments
    with pytest.raises(InvalidInputError, match=f"{name} must be an int"):
        service.create_lora_training_client("fake/base", **arguments)


@pytest.mark.parametrize("value", [*NOT_FINITE, True, None, [1.0]])
def test_settings_of_a_loss(trainer: Any, value: Any) -> None:
    with pytest.raises(
        InvalidInputError,
        match=r"loss_fn_config\['clip_low_threshold'\] must be a finite number or a string",
    ):
        trainer.forward([DATUM], "ppo_of_a_server", {"clip_low_threshold": value})


@pytest.mark.parametrize(
    "save", ["save_state", "save_weights_for_sampler", "save_weights_external"]
)
def test_how_long_a_checkpoint_is_kept(trainer: Any, save: str) -> None:
    for seconds in (1.5, -1, True, math.nan):
        with pytest.raises(InvalidInputError, match="ttl_seconds must be an int of 0 or more"):
            getattr(trainer, save)("name", ttl_seconds=seconds)


def test_metadata_is_text(trainer: Any) -> None:
    with pytest.raises(
        InvalidInputError, match=r"user_metadata\['epoch'\] must map a text to a text, found 3"
    ):
        trainer.save_state("name", user_metadata={"epoch": 3})


def test_pages_of_lists(connect_rest: Callable[..., Any], server: Server) -> None:
    rest = connect_rest(server.base_url)
    for call in (rest.list_sessions, rest.list_training_runs, rest.list_user_checkpoints):
        for limit, offset, name in (
            (1.0, 0, "limit"),
            (-1, 0, "limit"),
            (5, -1, "offset"),
            (5, True, "offset"),
        ):
            with pytest.raises(InvalidInputError, match=f"{name} must be an int"):
                call(limit, offset)
    with pytest.raises(InvalidInputError, match="ttl_seconds must be an int"):
        rest.set_checkpoint_ttl("run", "weights/a", 1.5)


@pytest.mark.parametrize("number", NOT_FINITE)
def test_a_number_that_is_not_finite_is_never_sent(number: float) -> None:
    body = OptimStepRequest("m", 1, adam_params=AdamParams(learning_rate=number))
    with pytest.raises(ValueError, match="adam_params is no finite number"):
        optim_step.request(body=body)
    for value in (
        [1.0, number],
        {"a": [{"b": number}]},
        np.array([1.0, number]),
        np.float32(number),
        (number,),
    ):
        with pytest.raises(ValueError, match="no finite number"):
            write_json(value)
    assert (
        write_json({"a": [1.0, np.float32(0.5)], "b": np.array([1, 2]), "c": None})
        == b'{"a":[1.0,0.5],"b":[1,2],"c":null}'
    )


# ---- inputs that have no effect ----


def datum(**inputs: Any) -> Datum:
    return Datum([5, 6], {"target_tokens": [6, 7], **inputs})


RATIO = {"logprobs": [0.0, 0.0]}


@pytest.mark.parametrize(
    ("loss_fn", "inputs", "meant"),
    [
        ("cross_entropy", {"mask": [0.0, 1.0]}, "weights"),
        ("cross_entropy", {"mask": [0.0, 1.0], "weights": [1.0, 1.0]}, "weights"),
        ("ppo", {**RATIO, "mask": [0, 1], "advantages": [1.0, 1.0]}, "advantages"),
    ],
)
def test_a_mask_without_effect_causes_one_warning(
    connect: Callable[..., Any],
    server: Server,
    caplog: pytest.LogCaptureFixture,
    loss_fn: str,
    inputs: dict[str, Any],
    meant: str,
) -> None:
    service = connect(
        server.base_url,
        config=Config(base_url=server.base_url, api_key="tml-test", dialect=Dialect()),
    )  # one that nobody has heard of yet
    trainer = service.create_lora_training_client("fake/base", rank=4)
    with pytest.warns(UserWarning, match=f"has no effect on {loss_fn}.* give '{meant}'"):
        first = trainer.forward([datum(**inputs)], loss_fn)
    second = trainer.forward([datum(**inputs)], loss_fn)  # where a warning would be an error
    for output in (first, second):
        # this server refuses what has no effect, and the second call came before that was seen
        with pytest.raises((UnprocessableEntityError, RequestSkippedError), match="mask"):
            output.result()
    assert sum("has no effect" in line for line in caplog.messages) == 1


@pytest.mark.parametrize(
    ("loss_fn", "inputs"),
    [
        ("cross_entropy", {"mask": [1.0, 1.0]}),
        ("cross_entropy", {"mask": [0.0, 1.0], "weights": [0.0, 2.0]}),
        ("ppo", {**RATIO, "mask": [0, 1], "advantages": [0.0, 1.0]}),
        ("mine", {"mask": [0.0, 1.0], "labels": [1, 2]}),
    ],
)
def test_a_mask_that_excludes_no_further_tokens_is_accepted_silently(
    loss_fn: str, inputs: dict[str, Any]
) -> None:
    check_batch([datum(**inputs)], loss_fn)
    warn_of_mask(ServerState(), [datum(**inputs)], loss_fn)  # a warning would be an error here


@pytest.mark.parametrize(
    ("name", "loss_fn", "meant"),
    [
        ("weight", "cross_entropy", "weights"),
        ("wieghts", "cross_entropy", "weights"),
        ("loss_mask", "cross_entropy", "weights"),
        ("labels", "cross_entropy", "target_tokens"),
        ("target", "cross_entropy", "target_tokens"),
        ("advantage", "ppo", "advantages"),
        ("logprob", "ppo", "logprobs"),
        ("loss_mask", "ppo", "advantages"),
    ],
)
def test_a_misnamed_loss_input_is_refused_with_the_right_name(
    trainer: Any, name: str, loss_fn: str, meant: str
) -> None:
    inputs = {**RATIO, "advantages": [1.0, 1.0]} if loss_fn == "ppo" else {}
    with pytest.raises(InvalidInputError, match=f"unknown input '{name}'\n.*'{meant}'"):
        trainer.forward([datum(**inputs, **{name: [1, 1]})], loss_fn)

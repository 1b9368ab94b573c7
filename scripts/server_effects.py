"""Effects by which a server's claims are proven: what the numbers of a model show, not what an id,
a flag or a metric says.

Each check makes models of its own on the server, and returns what it saw in words.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np
import torch
from attrs import evolve, frozen
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.support.whole_job import ADAM, BATCH, EQUAL, PROMPT, QUESTION, RANK, loss_of
from tinkex import ChunkLimits, Config, ServiceClient, UnsupportedByServer

WHOLE = ChunkLimits(max_items=1024)
SINGLY = ChunkLimits(max_items=1)
LONGEST_WAIT = 120.0  # seconds for the repeated request


@frozen
class Place:
    """A server under test."""

    config: Config
    model: str
    """The base model, by the name that the server gives it."""
    folder: Path
    """Its files."""


Check = Callable[[ServiceClient, Place], str]


def repeated_optim_step(service: ServiceClient, place: Place) -> str:
    """Sends one optim_step a second time under its number; compares the model's loss before and
    after.
    """
    trainer = _trainer(service, place)
    _step(trainer)
    # two requests a step, since the batch goes whole: this one's optim_step has the number 4
    _step(trainer)
    before = _loss(trainer)
    status = _send_again(place, trainer.model_id, 4)
    losses = [before, _loss(trainer)]
    effect = (
        "applied once"
        if _equal(losses)
        else f"applied again: the loss moves by {_apart(losses)} nats"
    )
    return f"{effect} (the repeat is answered {status})"


def resume_with_optimizer(service: ServiceClient, place: Place) -> str:
    """Saves and resumes; compares the second loss after it with that of the run that went on."""
    trainer = _trainer(service, place)
    _step(trainer)
    path = trainer.save_state("effect-warm").result().path
    warm = service.create_training_client_from_state_with_optimizer(path)
    after = [(_step(each), _loss(each))[1] for each in (trainer, warm)]
    return (
        "warm: equal to the run that went on"
        if _equal(after)
        else f"otherwise: {_apart(after)} nats off"
    )


def resume_without_optimizer(service: ServiceClient, place: Place) -> str:
    """Resumes without the optimizer's state; compares with the run that went on, from which it
    should differ.
    """
    trainer = _trainer(service, place)
    _step(trainer)
    path = trainer.save_state("effect-cold").result().path
    cold = service.create_training_client_from_state(path)
    before = [_loss(each) for each in (trainer, cold)]
    after = [(_step(each), _loss(each))[1] for each in (trainer, cold)]
    weights = "" if _equal(before) else f"; the weights are others, {_apart(before)} nats off"
    return ("the optimizer's state comes along" if _equal(after) else "cold, as asked") + weights


def second_save(service: ServiceClient, place: Place) -> str:
    """Saves twice with a step between; loads the second."""
    trainer = _trainer(service, place)
    trainer.save_state("effect-first").result()
    _step(trainer)
    path = trainer.save_state("effect-second").result().path
    losses = [_loss(trainer), _loss(service.create_training_client_from_state(path))]
    return "loads as saved" if _equal(losses) else f"loads other weights, {_apart(losses)} nats off"


def chunks(service: ServiceClient, place: Place) -> str:
    """Trains on a batch in chunks of one datum, and twice whole, since two models of one seed may
    differ.
    """
    with ServiceClient(config=evolve(place.config, chunk_limits=SINGLY)) as in_chunks:
        trainers = [_trainer(each, place) for each in (service, service, in_chunks)]
        whole, again, chunked = ((_step(each), _step(each), _loss(each))[2] for each in trainers)
    apart = (
        f"{_apart([whole, chunked])} nats off after two steps, and two whole ones "
        f"{_apart([whole, again])}"
    )
    if not _equal([whole, again]):
        return f"not to be told: {apart}"
    return "equal to the whole" if _equal([whole, chunked]) else f"train otherwise: {apart}"


def base_model_logprobs(service: ServiceClient, place: Place) -> str:
    """Scores the prompt by the base model, with a trained model about, and by transformers."""
    _step(_trainer(service, place))
    scored = (
        service.create_sampling_client(base_model=place.model).compute_logprobs(PROMPT).result()
    )
    distance = _distance(scored[1:], _in_torch(AutoModelForCausalLM.from_pretrained(place.folder)))
    return f"{_verdict(distance)} transformers'"


def greedy(service: ServiceClient, place: Place) -> str:
    """Samples greedily three times."""
    sampler = _trainer(service, place).save_weights_and_get_sampling_client()
    params = {"max_tokens": 16, "temperature": 0.0}
    rows = {
        tuple(sampler.sample(QUESTION, 1, params).result().sequences[0].tokens) for _ in range(3)
    }
    return "the same three times" if len(rows) == 1 else f"{len(rows)} different answers in three"


def download(service: ServiceClient, place: Place) -> str:
    """Downloads a trained adapter, loads it into peft, and compares logprobs with the trainer's."""
    trainer = _trainer(service, place)
    _step(trainer)
    trained = (
        trainer.forward(BATCH, "cross_entropy")
        .result()
        .loss_fn_outputs[1]["logprobs"]
        .tolist()[:-1]
    )
    path = trainer.save_weights_for_sampler("effect-download").result().path
    with TemporaryDirectory() as folder:
        content = service.create_rest_client().download_checkpoint(path, output_dir=folder)
        base = AutoModelForCausalLM.from_pretrained(place.folder)
        model: Any = PeftModel.from_pretrained(base, str(content))
        return f"in peft {_verdict(_distance(_in_torch(model), trained))} the trainer's"


CHECKS: Mapping[str, Check] = {
    "a repeated optim_step": repeated_optim_step,
    "resume with optimizer": resume_with_optimizer,
    "resume without": resume_without_optimizer,
    "a second save": second_save,
    "chunks of a batch": chunks,
    "base model's logprobs": base_model_logprobs,
    "greedy": greedy,
    "a download": download,
}


def seen(check: Check, place: Place) -> str:
    """Returns what a check saw, or why it saw nothing."""
    try:
        with ServiceClient(config=evolve(place.config, chunk_limits=WHOLE)) as service:
            return check(service, place)
    except UnsupportedByServer as error:
        return f"not possible: {str(error).splitlines()[0]}"
    except Exception as error:  # noqa: BLE001 - a check that breaks on a server is an outcome, and is written down
        return f"failed: {type(error).__name__}: {str(error).splitlines()[0][:160]}"


def _trainer(service: ServiceClient, place: Place) -> Any:
    return service.create_lora_training_client(place.model, rank=RANK, seed=1)


def _step(trainer: Any) -> None:
    trainer.forward_backward(BATCH, "cross_entropy").result()
    trainer.optim_step(ADAM).result()


def _loss(trainer: Any) -> float:
    """Reads a model's loss, by forward_backward where there is no forward: nothing follows that
    would take its gradient.
    """
    try:
        return loss_of(BATCH, trainer.forward(BATCH, "cross_entropy").result())
    except UnsupportedByServer:
        return loss_of(BATCH, trainer.forward_backward(BATCH, "cross_entropy").result())


def _send_again(place: Place, model_id: str, number: int) -> str:
    """Sends an optim_step without the client, so that none of its rules are in the way, and waits
    for its result.
    """
    key = place.config.api_key
    settings = {"learning_rate": 1e-3, "beta1": ADAM.beta1, "beta2": ADAM.beta2, "eps": ADAM.eps}
    with httpx.Client(
        base_url=place.config.base_url,
        headers={"X-API-Key": str(key), "Authorization": f"Bearer {key}"},
        timeout=LONGEST_WAIT,
    ) as http:
        body = {
            "model_id": model_id,
            "seq_id": number,
            "adam_params": settings,
            "type": "optim_step",
        }
        answer = http.post("/api/v1/optim_step", json=body)
        if answer.is_error:
            return str(answer.status_code)
        end = time.monotonic() + LONGEST_WAIT
        while time.monotonic() < end:
            body = {"request_id": answer.json()["request_id"]}
            polled = http.post("/api/v1/retrieve_future", json=body)
            if polled.status_code != httpx.codes.REQUEST_TIMEOUT and "try_again" not in polled.text:
                return str(answer.status_code)
            time.sleep(0.2)
    raise TimeoutError(f"the repeated optim_step has no result after {LONGEST_WAIT:g} s")


@torch.inference_mode()
def _in_torch(model: Any) -> Sequence[float]:
    logits = model.eval().float()(torch.tensor([PROMPT])).logits[0, :-1]
    return logits.log_softmax(-1).gather(-1, torch.tensor(PROMPT[1:])[:, None])[:, 0].tolist()


def _distance(one: Sequence[Any], other: Sequence[Any]) -> float:
    return float(np.max(np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64))))


def _verdict(distance: float) -> str:
    return f"{'equal to' if distance <= EQUAL else 'other than'} (at most {distance:.1g} nats off)"


def _equal(losses: Sequence[float]) -> bool:
    return abs(losses[0] - losses[1]) <= EQUAL


def _apart(losses: Sequence[float]) -> str:
    return f"{abs(losses[0] - losses[1]):.3g}"

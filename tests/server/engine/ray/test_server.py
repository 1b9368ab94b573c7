"""The server with its engine on a Ray cluster, and a client: training gives what it gives in one
process, also when actors and nodes are lost on the way.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("ray", reason="ray is not installed: `make test-ray` tests with it")

from attrs import frozen

import tinkex.local
from tests.support.batches import text_batch
from tests.support.ray_cluster import START, LocalCluster, OnRay, place_of, serving, trainer_of
from tinkex import AdamParams, RequestFailedError, ServiceClient

TINY = "tinkex/tiny"
DATA = text_batch()
ADAM = AdamParams(learning_rate=1e-3)
SAMPLING = {"max_tokens": 8, "seed": 3}


def new_trainer(service: Any, base: str = TINY) -> Any:
    return service.create_lora_training_client(base, rank=4, seed=1)


def train(trainer: Any, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        step = trainer.forward_backward(DATA, "cross_entropy")
        trainer.optim_step(ADAM).result(START)
        losses.append(step.result(START).metrics["loss:sum"])
    return losses


@frozen
class Course:
    """The losses of a training before and after its save, and a sample at the save."""

    before: list[float]
    after: list[float]
    tokens: list[int]
    logprobs: list[float]


def train_whole(trainer: Any) -> Course:
    before = train(trainer, 2)
    trainer.save_state("a").result(START)
    sampler = trainer.save_weights_and_get_sampling_client()
    sequence = sampler.sample(list(b"six is"), 1, SAMPLING).result(START).sequences[0]
    return Course(before, train(trainer, 3), list(sequence.tokens), list(sequence.logprobs))


@pytest.fixture(scope="module")
def in_one_process() -> Course:
    with (
        tinkex.local.serve(TINY) as server,
        ServiceClient(server.base_url, "tml-test") as service,
    ):
        return train_whole(new_trainer(service))


@pytest.fixture(scope="module")
def on_ray(cluster: LocalCluster) -> Iterator[OnRay]:
    with serving(cluster, "torch", TINY, samplers=2) as on_ray:
        yield on_ray


def failure(future: Any) -> str:
    with pytest.raises(RequestFailedError) as caught:
        future.result(START)
    assert caught.value.category == "server"
    return caught.value.message


def test_losses_and_samples_are_bit_for_bit_those_of_one_process(
    on_ray: OnRay, in_one_process: Course
) -> None:
    assert train_whole(new_trainer(on_ray.service)) == in_one_process


def test_a_training_whose_actor_is_killed_goes_on_with_the_same_losses(
    on_ray: OnRay, in_one_process: Course
) -> None:
    trainer = new_trainer(on_ray.service)
    train_whole(trainer)
    killed = place_of(trainer_of(on_ray.engine, TINY))
    os.kill(killed.pid, signal.SIGKILL)
    text = failure(trainer.forward_backward(DATA, "cross_entropy"))
    assert re.search(
        rf"the trainer of tinkex/tiny was lost \(ip [\d.]+, pid {killed.pid}\): .*, and is being "
        r"made anew; .* is restored from tinker://.*/weights/a, saved at seq_id 5; the steps since",
        text,
    )
    assert train(trainer, 3) == in_one_process.after


def test_a_training_whose_node_is_killed_goes_on_with_the_same_losses(
    on_ray: OnRay, in_one_process: Course, cluster: LocalCluster
) -> None:
    trainer = new_trainer(on_ray.service)
    train_whole(trainer)
    sampler = trainer.save_weights_and_get_sampling_client()
    known = sampler.sample(list(b"six is"), 1, SAMPLING).result(START).sequences[0].tokens
    cluster.kill_node(cluster.node_with(place_of(trainer_of(on_ray.engine, TINY)).node))
    cluster.add_node(4)
    with pytest.raises(
        RequestFailedError,
        match=r"the trainer of tinkex/tiny (was lost|cannot be reached any more).*"
        r"; .* is restored from tinker://.*/weights/a",
    ):
        train(trainer, 10_000)  # the actor outlives its node by a moment
    assert train(trainer, 3) == in_one_process.after
    assert sampler.sample(list(b"six is"), 1, SAMPLING).result(START).sequences[0].tokens == known

"""Clients of both facades are told what was lost when the engine process is killed, and their
models continue from the last saved state.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from attrs import frozen

import tinkex.local
from tests.support.batches import datum, text_datum
from tests.support.killable_engine import BASES, EXITS, WAITS, KillableEngine
from tests.support.wait_until import wait_until
from tinkex import (
    AdamParams,
    NotFoundError,
    RequestFailedError,
    RequestSkippedError,
    ServiceClient,
)
from tinkex.config.recovery import is_recoverable
from tinkex_server.engine.factory import create_engine
from tinkex_server.engine.process.engine import ProcessEngine
from tinkex_server.engine.process.hang_detector import HangTimeouts

BASE = "fake/base"
ADAM = AdamParams(learning_rate=1e-3)


@frozen
class Mortal:
    """A server whose engine can be killed."""

    base_url: str
    engine: ProcessEngine

    def kill(self) -> None:
        """Returns when the process is gone; another may be there by then."""
        os.kill(self.engine.pid, signal.SIGKILL)


@pytest.fixture
def mortal() -> Iterator[Mortal]:
    engine = ProcessEngine(
        KillableEngine, BASES, pauses=(0, 0), hang_timeouts=HangTimeouts(silent=3.0)
    )
    with tinkex.local.serve(engine=engine) as server:
        yield Mortal(server.base_url, engine)
    engine.close()


@pytest.fixture
def service(connect: Callable[..., Any], mortal: Mortal) -> Any:
    return connect(mortal.base_url)


def train(trainer: Any, steps: int = 1) -> None:
    for _ in range(steps):
        trainer.forward_backward([datum(5, 6, 7)], "cross_entropy")
        trainer.optim_step(ADAM).result()


def loss(trainer: Any) -> float:
    return trainer.forward([datum(5, 6, 7)], "cross_entropy").result().metrics["loss:sum"]


def failure(future: Any) -> str:
    with pytest.raises(RequestFailedError) as caught:
        future.result(timeout=20)
    assert caught.value.category == "server"
    return caught.value.message


def killed_midway(mortal: Mortal, trainer: Any) -> list[str]:
    """Returns the errors of a batch under way and of an update that is queued behind it."""
    under_way = trainer.forward_backward([datum(WAITS, 6, 7)], "cross_entropy")
    queued = trainer.optim_step(ADAM)
    time.sleep(0.3)  # for the batch to be in the engine
    mortal.kill()
    return [failure(under_way), failure(queued)]


def killed_idle(mortal: Mortal) -> None:
    """Returns when another process has taken the place of the dead one."""
    dead = mortal.engine.pid
    mortal.kill()
    wait_until(lambda: mortal.engine.pid != dead)


def test_a_model_whose_engine_is_killed_in_training_is_restored_from_its_last_saved_state(
    service: Any, mortal: Mortal
) -> None:
    trainer = service.create_lora_training_client(BASE, rank=4)
    train(trainer, 2)
    saved, known = trainer.save_state("a").result().path, loss(trainer)
    train(trainer, 2)
    told = killed_midway(mortal, trainer)
    for text in told:
        assert re.search(
            r"killed by SIGKILL .*, and is being restarted; "
            rf".* is restored from {saved}, saved at seq_id 5; the steps since",
            text,
        )
    assert loss(trainer) == known
    train(trainer)
    assert loss(trainer) < known


def test_a_hanging_engine_process_is_handled_like_a_dead_one(service: Any, mortal: Mortal) -> None:
    trainer = service.create_lora_training_client(BASE, rank=4)
    trainer.save_state("a").result()
    known = loss(trainer)
    train(trainer)
    os.kill(mortal.engine.pid, signal.SIGSTOP)
    stopped = trainer.forward_backward([datum(5, 6, 7)], "cross_entropy")
    assert re.search(
        r"sent no heartbeat for 3 s .*, and is being restarted; .* is restored from .*/weights/a",
        failure(stopped),
    )
    assert loss(trainer) == known


def test_requests_sent_after_a_lost_step_fail_with_the_same_error(
    service: Any, mortal: Mortal
) -> None:
    trainer = service.create_lora_training_client(BASE, rank=4)
    trainer.save_state("a").result()
    known = loss(trainer)
    train(trainer)
    sent = [
        trainer.forward_backward([datum(WAITS, 6, 7)], "cross_entropy"),
        trainer.optim_step(ADAM),
    ]
    for _ in range(5):
        sent += [
            trainer.forward_backward([datum(5, 6, 7)], "cross_entropy"),
            trainer.optim_step(ADAM),
        ]
    time.sleep(0.3)  # for the first batch to be in the engine, and the rest behind it
    mortal.kill()
    assert len({failure(future) for future in sent}) == 1
    assert loss(trainer) == known


def test_calls_made_before_the_user_has_seen_the_loss_of_steps_are_not_sent(
    service: Any, mortal: Mortal
) -> None:
    """The client was told by its poll, and the program has not yet looked at a future."""
    trainer = service.create_lora_training_client(BASE, rank=4)
    trainer.save_state("a").result()
    known = loss(trainer)
    train(trainer)
    sent = [
        trainer.train_step([datum(WAITS, 6, 7)], "cross_entropy", ADAM),
        trainer.optim_step(ADAM),
    ]
    time.sleep(0.3)
    mortal.kill()
    for future in sent:
        wait_until(future.done, 20)
    late = [trainer.train_step([datum(5, 6, 7)], "cross_entropy", ADAM), trainer.save_state("b")]
    for future in late:
        with pytest.raises(
            RequestSkippedError, match=r"before you could know .*is restored from .*/weights/a"
        ) as caught:
            future.result(timeout=20)
        assert is_recoverable(caught.value)
    assert loss(trainer) == known
    failure(sent[0])
    failure(sent[1])
    assert loss(trainer) == known


def test_a_saved_model_that_was_not_trained_since_comes_back_as_it_was(
    service: Any, mortal: Mortal
) -> None:
    trainer = service.create_lora_training_client(BASE, rank=4)
    train(trainer)
    saved, known = trainer.save_state("a").result().path, loss(trainer)
    for text in killed_midway(mortal, trainer):
        assert f"is restored as it was, from {saved}: send" in text
    assert loss(trainer) == known
    killed_idle(mortal)
    assert loss(trainer) == known, "nothing was lost, so nothing fails"


def test_an_engine_killed_while_idle_fails_the_next_request_of_each_model(
    service: Any, mortal: Mortal
) -> None:
    trainer, saved_one = (service.create_lora_training_client(BASE, rank=4) for _ in range(2))
    train(trainer)
    saved = trainer.save_state("a").result().path
    known = loss(trainer)
    saved_one.save_state("b").result()
    train(trainer)
    killed_idle(mortal)
    assert f"is restored from {saved}" in failure(trainer.forward([datum(5)], "cross_entropy"))
    assert loss(trainer) == known
    train(saved_one)


def test_a_model_that_was_never_saved_is_lost_for_good(service: Any, mortal: Mortal) -> None:
    trainer = service.create_lora_training_client(BASE, rank=4)
    train(trainer)
    for text in killed_midway(mortal, trainer):
        assert (
            "is lost, because it was never saved: create a new model, and save it regularly" in text
        )
    with pytest.raises(NotFoundError, match=r"killed by SIGKILL .* never saved"):
        trainer.forward([datum(5)], "cross_entropy").result()
    train(service.create_lora_training_client(BASE, rank=4))


def test_a_model_that_was_never_trained_is_made_anew(service: Any, mortal: Mortal) -> None:
    trainer = service.create_lora_training_client(BASE, rank=4)
    killed_idle(mortal)
    train(trainer)


def test_a_model_goes_back_to_the_state_that_it_was_loaded_from(
    service: Any, mortal: Mortal
) -> None:
    trainer = service.create_lora_training_client(BASE, rank=4)
    train(trainer)
    path, known = trainer.save_state("a").result().path, loss(trainer)
    loaded = service.create_training_client_from_state_with_optimizer(path)
    train(loaded)
    for text in killed_midway(mortal, loaded):
        assert f"is restored from {path}; the steps since then" in text
    assert loss(loaded) == known


def test_a_deleted_checkpoint_is_skipped_for_the_one_before_it(
    service: Any, mortal: Mortal
) -> None:
    trainer = service.create_lora_training_client(BASE, rank=4)
    rest = service.create_rest_client()
    train(trainer)
    first, known = trainer.save_state("a").result().path, loss(trainer)
    train(trainer)
    trainer.save_state("b").result()
    rest.delete_checkpoint(trainer.model_id, "weights/b")
    killed_idle(mortal)
    assert f"is restored from {first}" in failure(trainer.forward([datum(5)], "cross_entropy"))
    assert loss(trainer) == known


def test_samples_of_a_killed_engine_fail_and_are_requested_again(
    service: Any, mortal: Mortal
) -> None:
    sampler = service.create_sampling_client(base_model=BASE)
    wanted = sampler.sample([5, 6], 1, {"max_tokens": 4}).result().sequences[0].tokens
    under_way = [sampler.sample([WAITS, index], 1, {"max_tokens": 4}) for index in range(3)]
    time.sleep(0.3)  # for them to be in the engine
    mortal.kill()
    for sample in under_way:
        assert re.search("killed by SIGKILL .*, and is being restarted", failure(sample))
    assert sampler.sample([5, 6], 1, {"max_tokens": 4}).result().sequences[0].tokens == wanted


def test_weights_that_are_sampled_from_are_loaded_again(service: Any, mortal: Mortal) -> None:
    trainer = service.create_lora_training_client(BASE, rank=4)
    train(trainer)
    sampler = trainer.save_weights_and_get_sampling_client()
    wanted = sampler.sample([5, 6], 1, {"max_tokens": 4}).result().sequences[0].tokens
    killed_idle(mortal)
    assert sampler.sample([5, 6], 1, {"max_tokens": 4}).result().sequences[0].tokens == wanted


def test_an_engine_that_keeps_dying_is_not_restarted_and_the_error_names_the_last_saved_state(
    service: Any, mortal: Mortal
) -> None:
    trainer = service.create_lora_training_client(BASE, rank=4)
    path = trainer.save_state("a").result().path
    for _ in range(2):
        assert "exit code 3, and is being restarted" in failure(
            trainer.forward([datum(EXITS)], "cross_entropy")
        )
        loss(trainer)
    text = failure(trainer.forward([datum(EXITS)], "cross_entropy"))
    assert re.search(
        rf"3 times in a row, .*restart the server; .* is lost; its newest saved state is {path}",
        text,
    )
    with pytest.raises(NotFoundError, match=path):
        trainer.forward([datum(5)], "cross_entropy").result()
    assert "restart the server" in failure(
        service.create_sampling_client(base_model=BASE).sample([5], 1, {"max_tokens": 1})
    )


@pytest.mark.slow
def test_torch_trains_on_bit_for_bit_after_its_process_was_killed() -> None:
    """An undisturbed model beside one that was killed after the same steps gives the same losses.

    One facade shows it: what both are told of a death is tested above, with a cheaper engine.
    """
    data = [text_datum("forty two is ", "42\n"), text_datum("six is ", "6\n")]

    def losses(trainer: Any, steps: int) -> list[float]:
        found = []
        for _ in range(steps):
            found.append(
                trainer.forward_backward(data, "cross_entropy").result().metrics["loss:sum"]
            )
            trainer.optim_step(ADAM).result()
        return found

    engine = cast("ProcessEngine", create_engine("torch", ["tinkex/tiny"]))
    with (
        tinkex.local.serve(engine=engine) as server,
        ServiceClient(server.base_url, "tml-test") as service,
    ):
        trainer: Any = service.create_lora_training_client("tinkex/tiny", rank=4, seed=1)
        losses(trainer, 2)
        trainer.save_state("a").result()
        undisturbed = losses(trainer, 3)
        killed_idle(Mortal(server.base_url, engine))
        with pytest.raises(
            RequestFailedError, match=r"is restored from .*/weights/a, saved at seq_id 5"
        ):
            trainer.forward(data, "cross_entropy").result()
        assert losses(trainer, 3) == undisturbed

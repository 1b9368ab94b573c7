"""Trains on a Ray cluster of three nodes on this machine, samples from four samplers, kills a node
on the way, and compares the losses with those of one process: `make demo-ray`.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from ray_environment import environment, python_with_ray

import tinkex.local
from tinkex import AdamParams, RequestFailedError, ServiceClient

if TYPE_CHECKING:
    from tests.support.ray_cluster import LocalCluster, OnRay

TINY = "tinkex/tiny"
ADAM = AdamParams(learning_rate=1e-3)
SAMPLES = 64
STEPS, SAVED_AT, KILLED_AT = 8, 4, 6


def main() -> int:
    if importlib.util.find_spec("ray") is None:
        command = [python_with_ray(), __file__]
        variables = {**environment(), "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, env=variables, check=False).returncode
    importlib.import_module("tests.support.ray_variables")  # before ray is imported
    logging.basicConfig(format="    %(name)s: %(message)s", level=logging.ERROR)
    with (
        tinkex.local.serve(TINY) as server,
        ServiceClient(server.base_url, "tml-demo") as service,
    ):
        wanted = train(new_trainer(service), 0, STEPS)
    say(f"one process:  losses {shown(wanted)}")
    found = train_on_ray()
    say(f"on Ray:       losses {shown(found)}")
    same = found == wanted
    say("the losses are the same, bit for bit" if same else "THE LOSSES DIFFER")
    return 0 if same else 1


def train_on_ray() -> list[float]:
    """Returns the losses of a training whose node is killed on the way."""
    from tests.support.ray_cluster import local_cluster, serving

    say("a cluster of three nodes is starting")
    with (
        local_cluster(workers=2, cpus=5) as cluster,
        serving(cluster, "torch", TINY, samplers=4) as on_ray,
    ):
        say(f"ready: {on_ray.engine.ready.result()}")
        trainer = new_trainer(on_ray.service)
        losses = train(trainer, 0, SAVED_AT)
        trainer.save_state("checkpoint").result()
        sample_from_all(on_ray, trainer)
        train(trainer, SAVED_AT, KILLED_AT)
        kill_node(cluster, on_ray)
        wait_for_loss(trainer)
        say(f"training goes on from the checkpoint after step {SAVED_AT}")
        losses += train(trainer, SAVED_AT, STEPS)
        sample_from_all(on_ray, trainer)
    return losses


def new_trainer(service: Any) -> Any:
    return service.create_lora_training_client(TINY, rank=8, seed=1)


def train(trainer: Any, first: int, last: int) -> list[float]:
    losses = []
    for step in range(first, last):
        result = trainer.forward_backward(batch_of(step), "cross_entropy")
        trainer.optim_step(ADAM).result()
        losses.append(result.result().metrics["loss:sum"])
    return losses


def batch_of(step: int) -> list[Any]:
    from tests.support.batches import text_datum

    return [text_datum(f"{number} plus {step} is", f" {number + step}\n") for number in range(8)]


def sample_from_all(on_ray: OnRay, trainer: Any) -> None:
    """Samples with more requests at once than one sampler would be given."""
    pool = on_ray.engine._samplers.pools[TINY]
    sampler = trainer.save_weights_and_get_sampling_client()
    sampler.sample([1], 1, {"max_tokens": 1}).result()  # the first one has the weights loaded
    while not all(replica.has for replica in pool._replicas):
        time.sleep(0.1)  # between two looks
    begin, busy = time.monotonic(), set[int]()
    samples = [
        sampler.sample(list(b"2 plus 3 is"), 1, {"max_tokens": 32, "seed": seed})
        for seed in range(SAMPLES)
    ]
    while not all(sample.done() for sample in samples):
        busy |= {number for number, replica in enumerate(pool._replicas) if replica.running}
        time.sleep(0.002)  # between two looks: a sample takes longer
    tokens = sum(len(sample.result().sequences[0].tokens) for sample in samples)
    seconds = time.monotonic() - begin
    say(f"{SAMPLES} samples from {len(busy)} samplers: {tokens / seconds:,.0f} tokens/s")


def kill_node(cluster: LocalCluster, on_ray: OnRay) -> None:
    from tests.support.ray_cluster import place_of, trainer_of

    node = place_of(trainer_of(on_ray.engine, TINY)).node
    say(f"the node of the trainer, {node[:8]}, is killed; another one joins")
    cluster.kill_node(cluster.node_with(node))
    cluster.add_node(5)


def wait_for_loss(trainer: Any) -> None:
    """Trains until the client is told that the trainer was lost."""
    while True:
        try:
            train(trainer, KILLED_AT, KILLED_AT + 1)
        except RequestFailedError as error:
            say(f"the client is told: {error.message}")
            return


def shown(losses: list[float]) -> str:
    return " ".join(f"{loss:.4f}" for loss in losses)


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())

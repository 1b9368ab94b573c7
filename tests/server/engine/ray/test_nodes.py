"""Nodes that join and leave a cluster while clients sample."""

from __future__ import annotations

import re
import threading

import pytest

pytest.importorskip("ray", reason="ray is not installed: `make test-ray` tests with it")

from tests.support.batches import datum
from tests.support.ray_cluster import START, LocalCluster, place_of, samplers_of, serving
from tests.support.wait_until import wait_until
from tinkex import RequestFailedError

SAMPLING = {"max_tokens": 8, "seed": 3}


def test_samplers_join_with_a_node_that_is_added_under_load_and_leave_with_it(
    cluster: LocalCluster,
) -> None:
    """Two nodes of four cores have room for a trainer of three and for five of six samplers."""
    base = "fake/base"
    with serving(cluster, "fake", base, samplers=6, train_cpus=3) as on_ray:
        wait_until(lambda: len(samplers_of(on_ray.engine, base)) == 5, START)
        trainer = on_ray.service.create_lora_training_client(base, rank=4)
        trainer.forward_backward([datum(5, 6)], "cross_entropy").result(START)
        sampler = trainer.save_weights_and_get_sampling_client()
        known = sampler.sample([1], 1, SAMPLING).result(START).sequences[0].tokens
        done, errors, over = [], [], threading.Event()

        def load() -> None:
            while not over.is_set():
                try:
                    samples = [sampler.sample([1], 1, SAMPLING) for _ in range(20)]
                    done.extend(sample.result(START).sequences[0].tokens for sample in samples)
                except RequestFailedError as error:
                    errors.append(error.message)

        under_load = threading.Thread(target=load)
        under_load.start()
        try:
            added = cluster.add_node(1)
            wait_until(lambda: len(samplers_of(on_ray.engine, base)) == 6, START)
            pool = on_ray.engine._samplers.pools[base]
            wait_until(lambda: all(replica.has for replica in pool._replicas), START)
            assert not errors, "nothing fails when a node joins"
            last = [place_of(group) for group in samplers_of(on_ray.engine, base)]
            assert added.node_id in {place.node for place in last}
            cluster.kill_node(added)
            wait_until(lambda: len(samplers_of(on_ray.engine, base)) == 5, START)
            count = len(done)
            wait_until(lambda: len(done) > count + 100, START)
        finally:
            over.set()
            under_load.join()
        assert all(tokens == known for tokens in done)
        for text in errors:
            assert re.match(r".*sampler \d of fake/base (was lost|cannot be reached)", text)
        trainer.forward_backward([datum(5, 6)], "cross_entropy").result(START)

"""Ray clusters of several nodes on this machine. Importing this module imports ray, before which
`ray_variables` must be imported.
"""

# ray types its functions only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import ray
from attrs import frozen
from ray.cluster_utils import Cluster

import tinkex.local
from tinkex import ServiceClient
from tinkex_server.engine.factory import EngineName, create_engine
from tinkex_server.engine.ray.actor_group import ActorGroup
from tinkex_server.engine.ray.engine import RayEngine
from tinkex_server.engine.ray.settings import RaySettings

# A node that does not answer is dead after seconds rather than after a minute. A crowded machine
# makes a living one late, so they are not fewer.
_SYSTEM = {
    "health_check_initial_delay_ms": 2000,
    "health_check_period_ms": 1000,
    "prestart_worker_first_driver": False,  # processes that no actor needs
}
_STORE = 100 << 20  # bytes of each node's object store
START = 240  # seconds; a crowded machine takes long to import torch in several processes


class LocalCluster:
    """A head node without places for actors, and worker nodes whose cores are only numbers."""

    def __init__(self, workers: int, cpus: int) -> None:
        self._cluster: Any = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "include_dashboard": False,
                "object_store_memory": _STORE,
                "_system_config": _SYSTEM,
            },
        )
        self.workers = [self.add_node(cpus) for _ in range(workers)]

    @property
    def address(self) -> str:
        return self._cluster.address

    def add_node(self, cpus: int) -> Any:
        return self._cluster.add_node(
            num_cpus=cpus, object_store_memory=_STORE, include_dashboard=False
        )

    def kill_node(self, node: Any) -> None:
        """Kills the processes of a node, without a word to the others."""
        self._cluster.remove_node(node, allow_graceful=False)

    def node_with(self, node_id: str) -> Any:
        [node] = [node for node in self._cluster.list_all_nodes() if node.node_id == node_id]
        return node

    def close(self) -> None:
        self._cluster.shutdown()


@contextmanager
def local_cluster(workers: int = 2, cpus: int = 4) -> Iterator[LocalCluster]:
    cluster = LocalCluster(workers, cpus)
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.close()


@frozen
class Place:
    """The process of an actor, and the node that it is on."""

    pid: int
    node: str  # the id of the node


def place_of(group: ActorGroup) -> Place:
    """Returns where the only actor of a group runs."""
    [place] = places_of(group)
    return place


def places_of(group: ActorGroup) -> list[Place]:
    """Returns where the actors of a group run."""
    members = group._members  # pyright: ignore[reportPrivateUsage]
    told = [ray._private.state.actors(member.actor._actor_id.hex()) for member in members]
    return [Place(each["Pid"], each["Address"]["NodeID"]) for each in told]


def trainer_of(engine: RayEngine, base: str) -> ActorGroup:
    return engine._trainers[base].supervisor.group  # pyright: ignore[reportPrivateUsage]


def samplers_of(engine: RayEngine, base: str) -> list[ActorGroup]:
    """Returns the samplers that have started."""
    pool = engine._samplers.pools[base]  # pyright: ignore[reportPrivateUsage]
    return [part.group for part in pool.supervisors if part.group.ready.done()]


@frozen
class OnRay:
    """A server whose engine is on a cluster, and a client of it."""

    engine: RayEngine
    service: Any


@contextmanager
def serving(cluster: LocalCluster, name: EngineName, base: str, **settings: Any) -> Iterator[OnRay]:
    chosen = RaySettings(address=cluster.address, **settings)
    engine = cast("RayEngine", create_engine(name, [base], ray=chosen))
    with ExitStack() as stack:
        stack.callback(engine.close)
        server = stack.enter_context(tinkex.local.serve(engine=engine))
        server.ready.result(START)
        yield OnRay(engine, stack.enter_context(ServiceClient(server.base_url, "tml-test")))

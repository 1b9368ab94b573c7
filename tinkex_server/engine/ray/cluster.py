"""The connection of this process to a Ray cluster. Importing this module does not import Ray."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

_CHOICES = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anybody
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
# Ray's name for it speaks of other systems, but it decides for every system whether a cluster that
# is started here listens on the loopback address alone.
_OTHER_MACHINES = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_WORKERS_PATH = "PYTHONPATH"


def require_ray() -> None:
    """Raises `ImportError` if Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise ImportError("an engine on Ray needs the package ray: run `pip install 'tinkex[ray]'`")


def connect(address: str | None) -> Callable[[], None]:
    """Connects this process to the cluster at `address`, or to a new one on this machine (None);
    returns a function that ends the connection, and the new cluster.

    A connection that this process has already is used as it is, and stays. The thread that starts
    a cluster must live as long as the cluster: Linux ends the processes that a thread has started
    together with the thread.

    Raises `ConnectionError` if there is no cluster at the address.
    """
    for name, value in _CHOICES.items():
        os.environ.setdefault(name, value)
    if address is None and "ray" not in sys.modules:  # it is read by the import
        os.environ.setdefault(_OTHER_MACHINES, "0")
    from tinkex_server.engine.ray.library import ray

    if ray.is_initialized():
        return lambda: None
    # at INFO and WARNING Ray tells of its own start, and that SIGTERM is left to the server
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray.init(
        address="local" if address is None else address,
        include_dashboard=False if address is None else None,
        configure_logging=False,
        log_to_driver=False,
        runtime_env={"env_vars": _worker_variables()} if address is None else None,
    )
    return ray.shutdown


def describe_cluster() -> str:
    """Returns the cluster's size, for people."""
    from tinkex_server.engine.ray.library import ray

    nodes = sum(bool(node["Alive"]) for node in ray.nodes())
    return f"Ray with {nodes} node{'' if nodes == 1 else 's'}"


def free_resources() -> str:
    """Returns what the cluster has, and what is free of it, for people."""
    from tinkex_server.engine.ray.library import ray

    has, free = ray.cluster_resources(), ray.available_resources()
    names = [name for name in ("CPU", "GPU") if name in has]
    return ", ".join(f"{free.get(name, 0):g} of {has[name]:g} {name} free" for name in names)


def _worker_variables() -> Mapping[str, str]:
    """Returns the variables with which the processes on this machine import from the same places
    as this one.
    """
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    return {_WORKERS_PATH: path}

"""A bridge as a process of its own, for `tests.support.counting_engine.process`."""

from __future__ import annotations

import os
import sys
import threading

from tinkex.bridge.routing import Routing, Target
from tinkex.bridge.server import serve_bridge

UPSTREAM, DIALECT = "BRIDGE_UPSTREAM", "BRIDGE_DIALECT"
"""The variables with the URL and the dialect of the server behind the bridge."""


def main() -> None:
    """Bridges at the port and from the folder that are given as arguments, until it is killed."""
    target = Target(os.environ[UPSTREAM], os.environ.get(DIALECT))
    with serve_bridge(Routing(target), port=int(sys.argv[1]), data_dir=sys.argv[2]):
        print("ready", flush=True)  # noqa: T201
        threading.Event().wait()


if __name__ == "__main__":
    main()

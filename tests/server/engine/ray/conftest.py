"""A cluster of three nodes on this machine, for all tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

# Before the first import of ray, which reads them: nothing is reported to anybody, and clusters
# listen on the loopback address alone.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

if TYPE_CHECKING:
    from tests.support.ray_cluster import LocalCluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    from tests.support.ray_cluster import local_cluster  # it imports ray

    with local_cluster() as cluster:
        yield cluster

"""A cluster of three nodes on this machine, for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

import tests.support.ray_variables  # noqa: F401  before ray is imported

if TYPE_CHECKING:
    from tests.support.ray_cluster import LocalCluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    from tests.support.ray_cluster import local_cluster  # it imports ray

    with local_cluster() as cluster:
        yield cluster

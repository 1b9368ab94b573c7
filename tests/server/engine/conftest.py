"""The tests of the engine on a GPU, also those that ask for a CPU: `pytest tests/server/engine
--device cuda --dtype float32`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.model_matrix import Precision
from tinkex_server.engine.torch import base_model


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", help="what torch computes on, for all tests of the engine")
    parser.addoption("--dtype", help="float32 or bfloat16, of the base models in these tests")


@pytest.fixture(scope="session")
def precision(pytestconfig: pytest.Config) -> Precision:
    """The device and the precision that were asked for."""
    device, dtype = (pytestconfig.getoption(name, None) for name in ("--device", "--dtype"))
    return Precision.of(device or "cpu", dtype or "float32")


@pytest.fixture(scope="session", autouse=True)
def _on_the_device_asked_for(pytestconfig: pytest.Config) -> Iterator[None]:
    device = pytestconfig.getoption("--device", None)
    with pytest.MonkeyPatch.context() as patch:
        if device:
            there = base_model.device_of
            patch.setattr(base_model, "device_of", lambda _asked: there(device))
        yield

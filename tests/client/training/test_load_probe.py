"""A probe finds out what loads restore, on profiles that behave as real servers did; over sockets,
in both facades.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from attrs import evolve

from tests.support.whole_job import ADAM, BATCH
from tinkex import Config, UnsupportedByServer
from tinkex.dialects.table import DIALECTS
from tinkex.local import serve
from tinkex.training.load_probe import LoadedModel, LoadEffects
from tinkex_server.engine.interface import Engine
from tinkex_server.engine.torch.engine import TorchEngine

TINY = "tinkex/tiny"
FAITHFUL = {"loads_are_true": True, "loads_keep_optimizer": False, "loads_begin_anew": False}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, bool]]] = {
    "what the embedded server does": ("tinkex", {}, FAITHFUL),
    "SkyRL 0.3 brings an optimizer that was not asked for": (
        "skyrl-0.3",
        {"loads_keep_optimizer": False},
        {"loads_are_true": True, "loads_keep_optimizer": True, "loads_begin_anew": False},
    ),
    "open-rl leaves the optimizer behind": (
        "open-rl-old",
        {"asks_to_save_optimizer": False},
        {"loads_are_true": True, "loads_keep_optimizer": False, "loads_begin_anew": True},
    ),
    "open-rl that is asked to keep it": ("open-rl-old", {}, FAITHFUL),
    "hatchery brings the first state again": (
        "hatchery",
        {"saves_once": False},
        {"loads_are_true": False},
    ),
}


@pytest.fixture(scope="module")
def engine() -> Engine:
    return TorchEngine([TINY])


@pytest.mark.parametrize("case", CASES)
def test_a_probe_finds_what_a_load_restores(
    connect: Callable[..., Any], engine: Engine, case: str
) -> None:
    profile, changes, found = CASES[case]
    with serve(engine=engine, profile=profile, hold=0.5) as server:
        config = Config(base_url=server.base_url, dialect=evolve(DIALECTS[profile], **changes))
        service = connect(server.base_url, config=config)
        trainer = service.create_lora_training_client(TINY, rank=8)
        trainer.train_step(BATCH, "cross_entropy", ADAM).result()
        dialect = service.probe_server(TINY)
        assert {name: getattr(dialect, name) for name in found} == found
        assert {dialect.known(name).how for name in found if name in dialect.evidence} <= {
            "probed",
            "measured",
        }
        if profile == "tinkex":
            assert not service.create_rest_client().list_user_checkpoints().checkpoints, (
                "it leaves none behind"
            )
        path = trainer.save_state("one").result().path
        if dialect.loads_begin_anew:
            with pytest.raises(UnsupportedByServer, match="reset the optimizer at every load"):
                trainer.load_state_with_optimizer(path).result()
            with pytest.raises(UnsupportedByServer):
                service.create_recoverable_run(trainer)
            trainer.load_state(path).result()


ONE, OTHER, THIRD = (np.array([value, value]) for value in (-1.0, -2.0, -3.0))
KEPT = LoadedModel(ONE, OTHER)


@pytest.mark.parametrize(
    ("warm", "cold", "noise", "expected"),
    [
        (KEPT, LoadedModel(ONE, THIRD), 0.0, FAITHFUL),
        (KEPT, KEPT, 0.0, {"loads_are_true": True, "loads_keep_optimizer": True}),
        (
            LoadedModel(ONE, THIRD),
            LoadedModel(ONE, THIRD),
            0.0,
            {"loads_are_true": True, "loads_begin_anew": True},
        ),
        (LoadedModel(ONE, THIRD), KEPT, 0.0, {"loads_are_true": True}),  # nobody knows what that is
        (LoadedModel(THIRD, OTHER), KEPT, 0.0, {"loads_are_true": False}),
        (KEPT, None, 0.0, {"loads_are_true": True}),
        (None, None, 0.0, {}),
        (
            LoadedModel(OTHER, THIRD),
            LoadedModel(OTHER, OTHER),
            0.3,
            {"loads_are_true": True, "loads_keep_optimizer": True},
        ),
    ],
)
def test_a_probe_concludes_from_what_it_observed(
    warm: LoadedModel | None, cold: LoadedModel | None, noise: float, expected: dict[str, bool]
) -> None:
    assert LoadEffects(KEPT, noise, warm, cold).findings() == expected

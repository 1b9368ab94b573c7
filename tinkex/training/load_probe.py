"""What a server's loads bring back, found out by their effect on models that are made for it.

A load may bring other weights than were saved, leave the optimizer's state behind that was asked
for, or bring one that was not. All of that is answered with success, and shows in the step after
it: a warm optimizer still moves where earlier gradients led.
"""

from __future__ import annotations

import logging
import secrets
from typing import Any, TypeAlias

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from tinkex.errors import CheckpointMismatchError, TinkexError, UnsupportedByServer
from tinkex.rest.client import AsyncRestClient
from tinkex.session.session import Session
from tinkex.training.client import AsyncTrainingClient
from tinkex.training.creation import SavedState, model_from_state, new_model
from tinkex.training.unloading import unload_or_log
from tinkex.types import AdamParams, Datum, LoraConfig, ModelInput

logger = logging.getLogger("tinkex")
Logprobs: TypeAlias = NDArray[np.float64]

_RANK = 8
_ADAM = AdamParams(learning_rate=1e-2)
_WAYS = [
    Datum(ModelInput.from_ints([0, 1]), {"target_tokens": [token, 2], "weights": [1.0, 1.0]})
    for token in (1, 3)
]
"""What is learned at first, and in the last step: of other targets, so that it shows where the
optimizer comes from.
"""
_STEPS = 3
_ROUNDING = 0.02  # nats of a logprob: weights may be saved in fewer bits than they are trained in
_NOISES = 4.0
_OTHERS = np.full(sum(datum.model_input.length for datum in _WAYS), np.inf)
"""Logprobs that are equal to none."""


@frozen
class Resumed:
    """What a model that was loaded makes of the data, at once and a step later."""

    loaded: Logprobs
    stepped: Logprobs


@frozen
class FirstAnswers:
    """The same of the model that was saved, and of those that were loaded with its optimizer and
    without.
    """

    kept: Resumed
    noise: float
    warm: Resumed | None
    cold: Resumed | None

    def findings(self) -> dict[str, bool]:
        """Returns fields of the dialect that this proves; of what cannot be told there is none."""
        loads = [load for load in (self.warm, self.cold) if load is not None]
        if not loads:
            return {}
        are_true = all(self._equal(load.loaded, self.kept.loaded) for load in loads)
        if self.warm is None or self.cold is None or not are_true:
            return {"loads_are_true": are_true}
        goes_on = [self._equal(load.stepped, self.kept.stepped) for load in (self.warm, self.cold)]
        if goes_on == [True, False]:
            return {
                "loads_are_true": True,
                "loads_keep_optimizer": False,
                "loads_begin_anew": False,
            }
        if goes_on == [True, True]:
            return {"loads_are_true": True, "loads_keep_optimizer": True}
        same = self._equal(self.warm.stepped, self.cold.stepped)
        return {"loads_are_true": True, **({"loads_begin_anew": True} if same else {})}

    def _equal(self, one: Logprobs, other: Logprobs) -> bool:
        return float(np.max(np.abs(one - other))) <= max(_ROUNDING, _NOISES * self.noise)


async def probe_loads(session: Session, base_model: str) -> dict[str, bool]:
    """Returns fields of the dialect that were proved; none where the server cannot do what it
    takes.
    """
    models: list[AsyncTrainingClient] = []
    paths: list[str] = []
    try:
        return (await _probe(session, base_model, models, paths)).findings()
    except TinkexError as error:
        logger.info("what a load brings back was not found out: %s", error)
        return {}
    finally:
        for model in models:
            await unload_or_log(session, model.model_id)
        for path in paths:
            await _delete(session, path)


async def _probe(
    session: Session, base_model: str, models: list[AsyncTrainingClient], paths: list[str]
) -> FirstAnswers:
    model = await new_model(session, base_model, LoraConfig(rank=_RANK), None, None)
    models.append(model)
    for number in range(_STEPS):
        if number == 1 and not session.transport.server.dialect.saves_once:
            # some servers load a model's first save in the place of its last
            paths.append(await _saved(model))
        await _step(model, _WAYS[0])
    paths.append(await _saved(model))
    loaded, once_more = await _logprobs(model), await _logprobs(model)
    await _step(model, _WAYS[1])
    kept = Resumed(loaded, await _logprobs(model))
    noise = float(np.max(np.abs(loaded - once_more)))
    resumes = [
        await _resumed(session, base_model, paths[-1], models, optimizer=optimizer)
        for optimizer in (True, False)
    ]
    return FirstAnswers(kept, noise, *resumes)


async def _resumed(
    session: Session,
    base_model: str,
    path: str,
    models: list[AsyncTrainingClient],
    *,
    optimizer: bool,
) -> Resumed | None:
    """Returns what a load brings back; None where the server has no such load."""
    saved = SavedState(path=path, with_optimizer=optimizer, base_model=base_model, rank=_RANK)
    try:
        model = await model_from_state(session, saved, None, None)
    except UnsupportedByServer:
        return None
    except CheckpointMismatchError:
        return Resumed(_OTHERS, _OTHERS)
    models.append(model)
    loaded = await _logprobs(model)
    await _step(model, _WAYS[1])
    return Resumed(loaded, await _logprobs(model))


async def _saved(model: AsyncTrainingClient) -> str:
    return (await model.save_state(f"tinkex-probe-{secrets.token_hex(4)}")).path


async def _step(model: AsyncTrainingClient, datum: Datum) -> None:
    await model.train_step([datum], "cross_entropy", _ADAM)


async def _logprobs(model: AsyncTrainingClient) -> Logprobs:
    outputs: list[Any] = [
        (await model.forward([datum], "cross_entropy")).loss_fn_outputs[0]["logprobs"]
        for datum in _WAYS
    ]
    return np.concatenate(
        [np.asarray(output.to_numpy(), np.float64).reshape(-1) for output in outputs]
    )


async def _delete(session: Session, path: str) -> None:
    try:
        await AsyncRestClient.over(session.transport).delete_checkpoint_from_tinker_path(path)
    except TinkexError as error:
        logger.info("%s was not deleted: %s", path, error.message)

"""Finds out what a server's loads restore, by their effect on models that are made for this.

A load may restore other weights than were saved, omit the optimizer's state although it was asked
for, or restore it although it was not. Servers answer all of that with success. It shows in the
next step: a restored optimizer still moves in the direction of earlier gradients.
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
_DATA = [
    Datum(ModelInput.from_ints([0, 1]), {"target_tokens": [token, 2], "weights": [1.0, 1.0]})
    for token in (1, 3)
]
"""The data of the first steps, and of the last one. Their targets differ, so that the last step
shows whether the optimizer's state was restored.
"""
_STEPS = 3
_ROUNDING = 0.02  # nats: weights may be saved with fewer bits than they are trained with
_NOISE_FACTOR = 4.0
_UNEQUAL = np.full(sum(datum.model_input.length for datum in _DATA), np.inf)
"""Logprobs that are equal to no others."""


@frozen
class LoadedModel:
    """The logprobs of a model right after a load, and one step later."""

    loaded: Logprobs
    stepped: Logprobs


@frozen
class LoadEffects:
    """The logprobs of the saved model, and of models loaded with its optimizer and without."""

    kept: LoadedModel
    noise: float
    warm: LoadedModel | None
    cold: LoadedModel | None

    def findings(self) -> dict[str, bool]:
        """Returns the fields of the dialect that this proves, leaving out what it does not tell."""
        loads = [load for load in (self.warm, self.cold) if load is not None]
        if not loads:
            return {}
        are_true = all(self._equal(load.loaded, self.kept.loaded) for load in loads)
        if self.warm is None or self.cold is None or not are_true:
            return {"loads_are_true": are_true}
        resumes = [self._equal(load.stepped, self.kept.stepped) for load in (self.warm, self.cold)]
        if resumes == [True, False]:
            return {
                "loads_are_true": True,
                "loads_keep_optimizer": False,
                "loads_begin_anew": False,
            }
        if resumes == [True, True]:
            return {"loads_are_true": True, "loads_keep_optimizer": True}
        same = self._equal(self.warm.stepped, self.cold.stepped)
        return {"loads_are_true": True, **({"loads_begin_anew": True} if same else {})}

    def _equal(self, one: Logprobs, other: Logprobs) -> bool:
        return float(np.max(np.abs(one - other))) <= max(_ROUNDING, _NOISE_FACTOR * self.noise)


async def probe_loads(session: Session, base_model: str) -> dict[str, bool]:
    """Returns the fields of the dialect that were proved; none if the server cannot run the
    probe.
    """
    models: list[AsyncTrainingClient] = []
    paths: list[str] = []
    try:
        return (await _probe(session, base_model, models, paths)).findings()
    except TinkexError as error:
        logger.info("could not find out what a load restores: %s", error)
        return {}
    finally:
        for model in models:
            await unload_or_log(session, model.model_id)
        for path in paths:
            await _delete(session, path)


async def _probe(
    session: Session, base_model: str, models: list[AsyncTrainingClient], paths: list[str]
) -> LoadEffects:
    model = await new_model(session, base_model, LoraConfig(rank=_RANK), None, None)
    models.append(model)
    for number in range(_STEPS):
        if number == 1 and not session.transport.server.dialect.saves_once:
            # some servers load a model's first save instead of its last
            paths.append(await _save(model))
        await _step(model, _DATA[0])
    paths.append(await _save(model))
    loaded, repeated = await _logprobs(model), await _logprobs(model)
    await _step(model, _DATA[1])
    kept = LoadedModel(loaded, await _logprobs(model))
    noise = float(np.max(np.abs(loaded - repeated)))
    loads = [
        await _load(session, base_model, paths[-1], models, optimizer=optimizer)
        for optimizer in (True, False)
    ]
    return LoadEffects(kept, noise, *loads)


async def _load(
    session: Session,
    base_model: str,
    path: str,
    models: list[AsyncTrainingClient],
    *,
    optimizer: bool,
) -> LoadedModel | None:
    """Returns what a load restores; None where the server has no such load."""
    saved = SavedState(path=path, with_optimizer=optimizer, base_model=base_model, rank=_RANK)
    try:
        model = await model_from_state(session, saved, None, None)
    except UnsupportedByServer:
        return None
    except CheckpointMismatchError:
        return LoadedModel(_UNEQUAL, _UNEQUAL)
    models.append(model)
    loaded = await _logprobs(model)
    await _step(model, _DATA[1])
    return LoadedModel(loaded, await _logprobs(model))


async def _save(model: AsyncTrainingClient) -> str:
    return (await model.save_state(f"tinkex-probe-{secrets.token_hex(4)}")).path


async def _step(model: AsyncTrainingClient, datum: Datum) -> None:
    await model.train_step([datum], "cross_entropy", _ADAM)


async def _logprobs(model: AsyncTrainingClient) -> Logprobs:
    outputs: list[Any] = [
        (await model.forward([datum], "cross_entropy")).loss_fn_outputs[0]["logprobs"]
        for datum in _DATA
    ]
    return np.concatenate(
        [np.asarray(output.to_numpy(), np.float64).reshape(-1) for output in outputs]
    )


async def _delete(session: Session, path: str) -> None:
    try:
        await AsyncRestClient.over(session.transport).delete_checkpoint_from_tinker_path(path)
    except TinkexError as error:
        logger.info("could not delete %s: %s", path, error.message)

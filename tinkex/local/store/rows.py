"""What the store keeps, as values. Times are in seconds since 1970; an `owner` is the id of a key, empty where none is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from attrs import field, frozen

from tinkex.local.engine.base import CustomLoss, LoraShape
from tinkex.local.paths import CheckpointPath

ModelState: TypeAlias = Literal["creating", "ready", "failed", "unloaded"]
FutureState: TypeAlias = Literal["pending", "done", "failed"]
Category: TypeAlias = Literal["user", "server", "order"]


@frozen
class KeyRow:
    """An API key, without its hash."""

    key_id: int
    name: str
    created_at: float
    revoked_at: float | None


@frozen
class SessionRow:
    """A client's session."""

    session_id: str
    tags: Sequence[str]
    user_metadata: Mapping[str, str]
    sdk_version: str
    project_id: str | None
    display_name: str | None
    created_at: float
    owner: str = ""
    finished_at: float | None = None


@frozen
class ModelRow:
    """A training run. It belongs to the owner of its session. `failure` says why one that had been made has failed."""

    model_id: str
    session_id: str
    base_model: str
    lora: LoraShape
    user_metadata: Mapping[str, str]
    state: ModelState
    created_at: float
    last_request_at: float
    owner: str = ""
    failure: str | None = None


@frozen
class StepRow:
    """The loss per token of a training step, from 1, and when its last batch ended. NaN is None."""

    number: int
    loss: float | None
    at: float


@frozen
class FutureRow:
    """A request and, once it is done, its outcome: `result` is JSON, or `error` with whose fault it is."""

    request_id: str
    scope: str
    seq_id: int | None
    kind: str
    fingerprint: str
    state: FutureState = "pending"
    result: bytes | None = None
    error: str | None = None
    category: Category | None = None
    owner: str = ""


@frozen
class EndedFuture:
    """Without its result, of which it tells the size in bytes."""

    request_id: str
    seq_id: int | None
    state: FutureState
    size: int


@frozen
class CheckpointRow:
    """Saved weights. `expires_at` is what the saver asked for. They belong to the owner of their run."""

    path: CheckpointPath
    size_bytes: int
    created_at: float
    expires_at: float | None
    user_metadata: Mapping[str, str] = field(factory=dict[str, str])
    public: bool = False
    owner: str = ""


@frozen
class SamplerRow:
    """A sampling session: a base model, and the folder of an adapter over it unless it is sampled bare.

    `inflight_of` is the model whose newest in-flight weights it samples from.
    """

    sampler_id: str
    session_id: str
    base_model: str
    model_path: str | None
    folder: str | None
    inflight_of: str | None = None
    owner: str = ""

    @property
    def weights_id(self) -> str:
        """The engine's name for the weights: a session's own, or those that a model's in-flight sessions share."""
        return f"{self.inflight_of}:inflight" if self.inflight_of else self.sampler_id


@frozen
class CustomLossRow:
    """A loss that a client sent."""

    loss_id: str
    session_id: str
    name: str
    loss: CustomLoss

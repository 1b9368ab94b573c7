"""What the store keeps, as values. Times are in seconds since 1970; an `owner` is the id of a key,
empty where none is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from attrs import field, frozen

from tinkex_server.checkpoint_path import CheckpointPath
from tinkex_server.engine.interface import CustomLoss, LoraShape, OptimizerKind

ModelState: TypeAlias = Literal["creating", "ready", "failed", "unloaded", "lost"]
FutureState: TypeAlias = Literal["pending", "done", "failed", "expired"]
FINISH_REASONS = ("success", "errored", "interrupted")
"""How a client ends its session. One that ended for any other reason was cancelled by the server.
"""
UsageKind: TypeAlias = Literal["training", "sampling_prefill", "sampling_sample", "checkpoint"]
Category: TypeAlias = Literal["user", "server", "order"]


@frozen
class KeyRow:
    """An API key, without its hash."""

    key_id: int
    name: str
    created_at: float
    revoked_at: float | None


@frozen
class EnrolledKey:
    """An API key as the store has it: with its scrypt hash, and the salt of that."""

    hashed: bytes
    salt: bytes
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
    finish_reason: str | None = None
    finish_detail: str | None = None

    @property
    def ending(self) -> str:
        """Of one that has ended, in words."""
        return f"session {self.session_id!r} was finished" + (
            f": {self.finish_detail}" if self.finish_detail else ""
        )


@frozen(kw_only=True)
class SessionQuery:
    """Which sessions to find: all conditions must hold, None and empty ones aside. `owner` None is
    all of them.
    """

    owner: str | None
    session_id: str | None = None
    words: Sequence[str] = ()
    """Of the display name. Where `session_id` is given, too, either is enough."""
    project_ids: Sequence[str] | None = None
    user_metadata: Mapping[str, str] = field(factory=dict[str, str])
    states: Sequence[str] | None = None
    """Of `FINISH_REASONS`, "active" and "cancelled"."""
    after: tuple[float, str] | None = None
    """When the last session of the page before began, and its id."""


@frozen
class FoundSession:
    """A session with what its checkpoints come to."""

    session: SessionRow
    checkpoints: int
    size_bytes: int


@frozen
class ModelRow:
    """A training run. It belongs to the owner of its session. `failure` says why one that had been
    made has failed.
    """

    model_id: str
    session_id: str
    base_model: str
    lora: LoraShape
    optimizer: OptimizerKind
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
class RunQuery:
    """Runs of one owner, or of all; with `published`, those of others too that have a published
    checkpoint. Of one project, or of all.
    """

    owner: str | None
    published: bool = False
    project_id: str | None = None


@frozen
class FutureRow:
    """A request and, once it is done, its outcome: `result`, or `error` with whose fault it is."""

    request_id: str
    scope: str
    seq_id: int | None
    kind: str
    fingerprint: str
    owner: str
    state: FutureState = "pending"
    result: bytes | None = None
    error: str | None = None
    category: Category | None = None


@frozen
class Ending:
    """How a request ended: with a result, or with an error and whose fault it is."""

    state: Literal["done", "failed"]
    result: bytes | None = None
    error: str | None = None
    category: Category | None = None


@frozen
class EndedFuture:
    """Without its result, of which it tells the size in bytes."""

    request_id: str
    seq_id: int | None
    state: FutureState
    size: int


@frozen
class CheckpointRow:
    """Saved weights, by the name of their folder in `Folders`. `expires_at` is what the saver asked
    for.

    They belong to the owner of their run, and are of its base model.
    """

    path: CheckpointPath
    folder: str
    size_bytes: int
    created_at: float
    expires_at: float | None
    user_metadata: Mapping[str, str] = field(factory=dict[str, str])
    public: bool = False
    owner: str = ""
    base_model: str = ""


@frozen(kw_only=True)
class CheckpointQuery:
    """Which checkpoints to find: all conditions must hold, None and empty metadata aside. `owner`
    None is all of them.
    """

    owner: str | None
    kind: str | None = None
    project_ids: Sequence[str] | None = None
    base_models: Sequence[str] | None = None
    user_metadata: Mapping[str, str] = field(factory=dict[str, str])
    after: tuple[float, str] | None = None
    """When the last checkpoint of the page before was made, and its folder."""


@frozen
class SamplerRow:
    """A sampling session: of a base model, or of a checkpoint, or of weights that were saved for
    it, by the name of their folder.

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
        """The engine's name for the weights: a session's own, or those that a model's in-flight
        sessions share.
        """
        return f"{self.inflight_of}:inflight" if self.inflight_of else self.sampler_id


@frozen
class CustomLossRow:
    """A loss that a client sent."""

    loss_id: str
    session_id: str
    name: str
    loss: CustomLoss


@frozen
class AuditRow:
    """Something that was done."""

    at: float
    event: str
    details: Mapping[str, object]


@frozen
class UsageRow:
    """Tokens, or checkpoints, of one hour, which begins at `hour`."""

    hour: int
    owner: str
    session_id: str
    base_model: str
    project_id: str | None
    kind: UsageKind
    amount: int


@frozen
class StoredSpan:
    """How long a checkpoint has been there; `end` is None for one that still is."""

    owner: str
    session_id: str
    base_model: str
    project_id: str | None
    size_bytes: int
    start: float
    end: float | None


@frozen
class StorageRow:
    """What the checkpoints of one owner in one project take."""

    owner: str
    project_id: str | None
    count: int
    size_bytes: int


@frozen
class TimedFuture:
    """When a request came, was begun and ended."""

    request_id: str
    scope: str
    seq_id: int | None
    kind: str
    state: FutureState
    created_at: float
    started_at: float | None
    finished_at: float | None

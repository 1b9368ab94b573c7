"""The rows of the store, and the queries for them, as plain values.

Times are in seconds since 1970. An `owner` is the id of an API key, and empty where the server asks
for none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from attrs import field, frozen

from tinkex_server.checkpoint_path import CheckpointPath
from tinkex_server.engine.interface import CustomLoss, LoraShape, OptimizerKind

ModelState: TypeAlias = Literal["creating", "ready", "failed", "unloaded", "lost"]
STATES_IN_MEMORY: Sequence[ModelState] = ("creating", "ready")
"""The states of a model that the engine holds, or is about to hold."""
FutureState: TypeAlias = Literal["pending", "done", "failed", "expired"]
FINISH_REASONS = ("success", "errored", "interrupted")
"""The reasons for which a client finishes a session. A session that was finished for any other
reason was cancelled by the server.
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
    """An API key with its scrypt hash, and the salt of the hash."""

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
    heartbeat_at: float = field(default=0.0, eq=False)

    @property
    def ending(self) -> str:
        """The sentence that says how the session was finished."""
        return f"session {self.session_id!r} was finished" + (
            f": {self.finish_detail}" if self.finish_detail else ""
        )


@frozen(kw_only=True)
class SessionQuery:
    """A search for sessions that fulfil all conditions. None and empty values are no condition."""

    owner: str | None
    session_id: str | None = None
    words: Sequence[str] = ()
    """Words that the display name contains. If `session_id` is given, too, either is enough."""
    project_ids: Sequence[str] | None = None
    user_metadata: Mapping[str, str] = field(factory=dict[str, str])
    states: Sequence[str] | None = None
    """Some of `FINISH_REASONS`, "active" and "cancelled"."""
    after: tuple[float, str] | None = None
    """The begin of the last session of the page before, and its id."""


@frozen
class FoundSession:
    """A session, with the number of its checkpoints and their bytes."""

    session: SessionRow
    checkpoints: int
    size_bytes: int


@frozen
class ModelRow:
    """A training run. It belongs to the owner of its session."""

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
    """The reason why a model that had been created has failed."""

    @property
    def in_memory(self) -> bool:
        """Whether the engine holds the model, or is about to; only then it takes requests."""
        return self.state in STATES_IN_MEMORY


@frozen(kw_only=True)
class Batch:
    """The figures of one forward_backward."""

    loss: float
    """The loss, summed over `tokens` tokens."""
    tokens: int
    computed_tokens: int = 0
    """The tokens that went through the model, with a weight or not."""
    seconds: float = 0.0
    """The time that the engine took."""
    metrics: Mapping[str, float] = field(factory=dict[str, float])
    """Further values by name; those whose names end in `:sum` are summed over a step, the others
    are averaged.
    """


@frozen
class StepRow:
    """One step of a training run."""

    number: int
    """The number of the step, from 1."""
    loss: float | None
    """The loss per token. None stands for NaN, or for no loss if the step has trained nothing."""
    at: float
    """The time at which the last batch of the step ended."""
    tokens_per_second: float | None = None
    """The tokens that went through the model by the time that the engine took."""
    metrics: Mapping[str, float | None] = field(factory=dict[str, "float | None"])
    """Further values by name. None stands for NaN."""
    trained: bool = True
    """Whether the step has trained the model on any token."""

    @property
    def losses(self) -> Mapping[str, float | None]:
        """The loss by its name; empty if the step has trained nothing."""
        return {"loss": self.loss} if self.trained else {}


RunStatus: TypeAlias = Literal[
    "creating", "ready", "gone", "finished", "interrupted", "errored", "unloaded", "failed", "lost"
]
"""The state of a run together with that of its client. A run is `gone` if its client was silent for
long, whether its session has been ended for it or not.
"""
RUN_GROUPS: Mapping[str, Sequence[RunStatus]] = {
    "active": ("creating", "ready"),
    "gone": ("gone",),
    "ended": ("finished", "interrupted", "unloaded"),
    "failed": ("errored", "failed", "lost"),
}
"""The statuses of runs by what people look for."""
RunOrder: TypeAlias = Literal["created", "active", "name", "steps", "loss"]


@frozen(kw_only=True)
class RunSearch:
    """A search for training runs that fulfil all conditions. None and empty values are no
    condition.
    """

    owner: str | None
    silent_before: float
    """The time before which the last sign of a client that is there must not lie."""
    words: Sequence[str] = ()
    """Texts that occur, in any case, in the id, the names, the tags or the metadata."""
    group: str | None = None
    """A key of `RUN_GROUPS`."""
    order: RunOrder = "created"
    """The order; for all but names the largest value comes first."""
    reverse: bool = False


@frozen
class ListedRun:
    """A training run as the status page lists it."""

    model: ModelRow
    session: SessionRow
    status: RunStatus
    seen_at: float
    """The time of the client's last sign."""
    steps: int
    """The number of steps that were applied."""
    loss: float | None
    """The loss per token of the newest step that has trained on any token. None stands for NaN, or
    for no such step.
    """
    has_loss: bool
    """Whether there is such a step."""


@frozen
class FailureRow:
    """Requests that failed for one reason."""

    scope: str
    kind: str
    error: str
    category: Category | None
    count: int
    at: float
    """The time at which the last of them ended."""


@frozen
class RunQuery:
    """A search for training runs of an owner and a project. None stands for all owners, or all
    projects.
    """

    owner: str | None
    published: bool = False
    """Whether runs of other owners are found, too, if they have a published checkpoint."""
    project_id: str | None = None


@frozen
class FutureRow:
    """An accepted request and, once it is done, its result or error."""

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
    """The side that caused the error."""


@frozen
class Ending:
    """The end of a request: a result, or an error and the side that caused it."""

    state: Literal["done", "failed"]
    result: bytes | None = None
    error: str | None = None
    category: Category | None = None


@frozen
class EndedFuture:
    """A request that has ended, without its result."""

    request_id: str
    seq_id: int | None
    state: FutureState
    size: int
    """The bytes of the result."""


@frozen
class CheckpointRow:
    """Saved weights. They belong to the owner of their training run, and have its base model."""

    path: CheckpointPath
    folder: str
    """The name of their folder in `Folders`."""
    size_bytes: int
    created_at: float
    expires_at: float | None
    """The time at which they are deleted, if the client asked for one."""
    user_metadata: Mapping[str, str] = field(factory=dict[str, str])
    public: bool = False
    owner: str = ""
    base_model: str = ""
    step: int | None = None
    """The steps that its run had taken. None for a save of a release that did not note them, if it
    is not known otherwise.
    """


@frozen
class OriginRow:
    """A load of another run's checkpoint."""

    model_id: str
    """The id of the run that loaded it."""
    after_step: int
    """The steps that the run had taken before; 0 if it continues the other run."""
    source: CheckpointPath
    """The path of the checkpoint, which may have been deleted since."""
    step: int | None
    """The steps that the other run had taken when it saved the checkpoint, if known."""


@frozen
class RunPart:
    """The first steps of a run, as part of a training that several runs continue."""

    model_id: str
    steps: int
    before: int = 0
    """The steps of the training that earlier runs have taken."""

    @property
    def last(self) -> int:
        """The number of its last step, counted from the training's first."""
        return self.before + self.steps


@frozen(kw_only=True)
class CheckpointQuery:
    """A search for checkpoints that fulfil all conditions. None and empty metadata are no
    condition.
    """

    owner: str | None
    kind: str | None = None
    project_ids: Sequence[str] | None = None
    base_models: Sequence[str] | None = None
    user_metadata: Mapping[str, str] = field(factory=dict[str, str])
    after: tuple[float, str] | None = None
    """The creation time of the last checkpoint of the page before, and its folder."""


@frozen
class SamplerRow:
    """A sampling session of a base model, a checkpoint, or weights that were saved for it."""

    sampler_id: str
    session_id: str
    base_model: str
    model_path: str | None
    """The path of the checkpoint."""
    folder: str | None
    """The name of the folder of weights that were saved for the session."""
    inflight_of: str | None = None
    """The id of the model whose newest in-flight weights the session samples from."""
    owner: str = ""

    @property
    def weights_id(self) -> str:
        """The engine's name for the weights. The in-flight sessions of a model share one."""
        return f"{self.inflight_of}:inflight" if self.inflight_of else self.sampler_id


@frozen
class CustomLossRow:
    """A custom loss that a client sent."""

    loss_id: str
    session_id: str
    name: str
    loss: CustomLoss


@frozen
class AuditRow:
    """An entry of the audit log."""

    at: float
    event: str
    details: Mapping[str, object]


@frozen
class UsageRow:
    """The tokens, or the checkpoints, of one hour."""

    hour: int
    """The time at which the hour begins."""
    owner: str
    session_id: str
    base_model: str
    project_id: str | None
    kind: UsageKind
    amount: int


@frozen
class StoredSpan:
    """The time span in which a checkpoint was stored."""

    owner: str
    session_id: str
    base_model: str
    project_id: str | None
    size_bytes: int
    start: float
    end: float | None
    """None for a checkpoint that is still stored."""


@frozen
class StorageRow:
    """The number and the bytes of the checkpoints of one owner in one project."""

    owner: str
    project_id: str | None
    count: int
    size_bytes: int


@frozen
class TimedFuture:
    """The times at which a request came, was begun, and ended."""

    request_id: str
    scope: str
    seq_id: int | None
    kind: str
    state: FutureState
    created_at: float
    started_at: float | None
    finished_at: float | None

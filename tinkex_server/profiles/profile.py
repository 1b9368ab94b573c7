"""`Profile`: the behaviour of one kind of Tinker server, as plain data. The defaults describe the
embedded server itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from attrs import field, frozen

from tinkex_server.ids import Ids
from tinkex_server.jobs.seq_ids import SeqIds
from tinkex_server.profiles.paths import PathForms
from tinkex_server.profiles.templates import Ref, Reply, Shape

Operation: TypeAlias = str
"""A route of `tinkex_server.routes` without its prefix, such as "create_model" or
"samplers/{sampler_id}".
"""
Field: TypeAlias = str
"""A field of a body, by its keys joined by dots, such as "sampling_params.top_k"."""

BATCHES = ("forward_backward", "forward")
NUMBERED = (*BATCHES, "optim_step", "save_weights", "save_weights_for_sampler", "load_weights")
"""The operations that carry a seq_id."""


@frozen(kw_only=True)
class Bodies:
    """The encodings of request bodies that are read, and the refusal of others."""

    json: bool = True
    protobuf: bool = True
    zstd: bool = False
    other: int | Literal["unhandled"] = 415
    """The refusal of a body in another encoding: a status, or "unhandled" for a FastAPI server that
    parses any body as JSON. The answer is then 422 if the body is text. Otherwise the handler dies:
    it answers 500 in plain text, and uvicorn closes the connection without `Connection: close`.
    """
    most_bytes: int | None = None
    release: tuple[int, int] | None = None
    """The release of the official client whose strict types the server uses: fields of later
    releases are refused.
    """


@frozen(kw_only=True)
class Auth:
    """The headers that may carry the key. If the server has no key of its own, any key will do."""

    headers: Sequence[Literal["x-api-key", "authorization"]] = ("x-api-key",)
    missing: int = 401
    wrong: int = 401
    open_to_all: frozenset[Operation] = frozenset({"healthz"})


@frozen(kw_only=True)
class Rule:
    """A condition on a field; a request that breaks it is refused with `status`."""

    operations: Sequence[Operation]
    field: Field
    status: int = 400
    needed: bool = False
    absent: bool = False
    """Whether the field must be missing or null."""
    not_null: bool = False
    among: Sequence[Any] | None = None
    most: float | None = None
    """The maximum of a number, or of the length of a list."""
    not_text: bool = False


@frozen(kw_only=True)
class Edits:
    """Changes of an operation's fields before the server acts on them."""

    defaults: Mapping[Field, Any] = field(factory=dict[str, Any])
    ignored: Sequence[Field] = ()
    forced: Mapping[Field, Any] = field(factory=dict[str, Any])


@frozen(kw_only=True)
class Loss:
    """A loss function of the engine, for which a server has a name of its own."""

    name: str
    settings: bool = True
    """Whether the settings of the request apply."""


@frozen(kw_only=True)
class Batches:
    """The contents of training batches that are accepted, and what is made of them."""

    losses: Mapping[str, Loss] | None = None
    """The losses by their names on the wire; None: the engine's own."""
    unknown_loss: int = 400
    weights_needed: bool = False
    """Whether cross_entropy needs `weights`; otherwise missing weights are ones."""
    known_inputs_only: bool = False
    flat: Literal["as sent", "shapes dropped", "refused"] = "as sent"
    """The treatment of arrays of more than one dimension."""
    sparse: bool = True
    means: bool = False
    """Whether a loss is divided by the sum of all weights in its request."""
    padded_forward: bool = False
    """Whether a forward gives each datum as many logprobs as the longest of its batch has."""
    even_with_bearer: frozenset[str] = frozenset()
    """Losses whose future fails for an odd number of data, if the client sends a bearer token."""


@frozen(kw_only=True)
class Sampling:
    """Silent differences between samples and what the client asked for."""

    base_models: bool = True
    """Whether base models can be sampled from; else a sample of one is refused with 400."""
    base_is_first_live: bool = False
    """Whether a sample of a base model is drawn from the first model that was trained, if there is
    one.
    """
    base_session: str | None = None
    """The id of every sampling session of a base model."""
    first_chunk_only: bool = False
    zero_temperature_is: float | None = None
    greedy_when_plain: bool = False
    """Whether one sample at temperature 1 and top_p 1 is greedy."""
    default_top_k: int | None = None
    """The top_k that replaces "off"."""
    named_weights: bool = True
    """Whether a sampling session can use a path of save_weights_for_sampler; otherwise the handler
    dies.
    """
    needs_base: bool = False
    """Whether a sample is refused with 400 if its session was created without a base model."""
    warped_logprobs: bool = False
    """Whether logprobs are taken after temperature, top_k and top_p."""
    stop_reason: str | None = None
    prompt_logprobs: Literal["whole", "without the first", "never"] = "whole"


@frozen(kw_only=True)
class Loading:
    """The abilities of load_weights."""

    by_session: bool = True
    """Whether a load can create a model."""
    no_model: int = 422
    """The status of the refusal if it cannot."""
    first_request_only: bool = False
    """Whether a load must be the first request of its model; a later one is refused with 400."""
    optimizer_if_saved: bool = False
    """Whether the optimizer's state is loaded only if save_weights was sent `include_optimizer`;
    otherwise the optimizer starts anew.
    """
    first_save_alone: bool = False
    """Whether each load of a model's saves gets the first of them, whose files the server keeps."""
    missing_checkpoint: int | None = None
    """The status with which the POST refuses an unknown checkpoint; None: the future fails."""


@frozen(kw_only=True)
class Profile:
    """One kind of server."""

    name: str
    about: str

    missing: frozenset[str] = frozenset()
    """The routes that the server lacks, such as "POST forward". They are answered 404, unless
    `replies` has another answer.
    """
    replies: Mapping[Operation, Reply] = field(factory=dict[str, Reply])
    """The fixed answers of operations, and of paths outside the API."""
    shapes: Mapping[Operation, Shape] = field(factory=dict[str, Shape])
    """The changes of the answers of operations."""
    statuses: Mapping[Operation, int] = field(factory=dict[str, int])
    """The statuses of successful answers, where they are not 200; 204 has no body."""
    null_answers: frozenset[Operation] = frozenset()
    """Operations whose successful answer is null."""
    refusal: Mapping[str, Any] = field(factory=lambda: {"detail": Ref("detail")})
    """The body of a refusal; it may refer to detail, status and path."""
    request_ids: bool = False
    """Whether each answer has an `x-request-id`: the request's own, or a new one."""
    starting: int = 0
    """The number of calls that are answered 503 before the server is ready."""

    auth: Auth | None = None
    bodies: Bodies = Bodies()
    rules: Sequence[Rule] = ()
    edits: Mapping[Operation, Edits] = field(factory=dict[str, Edits])

    ids: Ids = Ids()
    seq_ids: SeqIds = SeqIds()
    sample_repeats: bool = True
    """Whether a sample's repeated seq_id gets the promise of the first."""
    repeats_by_id_alone: bool = False
    """Whether a repeated (model, seq_id) gets the request id of the first request, but is run
    again.
    """
    refusals_take_numbers: bool = False
    """Whether a request that is refused on arrival still uses up its seq_id, so that another one
    with the same seq_id is refused with 409.
    """
    creates_anew: bool = False
    """Whether a repeated create_model or create_sampling_session creates another one."""

    promise: Shape = Shape({})
    """The change of promises; it may refer to the request's fields, as `sent`."""
    sample_sequence_ids: bool = True
    promised: Mapping[Operation, Shape] = field(factory=dict[str, Shape])
    """Operations that answer with a promise where others answer with the result, and the result of
    the poll.
    """
    works_in_post: bool = False
    """Whether the POST is answered only when the work is done; a failure is as in `failed`."""
    refuses_late: frozenset[int] = frozenset()
    """The statuses of refusals that come as a failed future, and not as the answer to the POST."""

    hold: float = 20.0
    """Seconds that a poll waits for a result. Clients give one 45."""
    pending: Reply | None = None
    """The answer to a poll without a result; None: 408, with the reason of the wait."""
    pending_once_more: bool = False
    """Whether a poll that was waiting when the result arrived is still told "not yet"."""
    failed: Mapping[str, Reply] = field(factory=dict[str, Reply])
    """The answers to polls of failures, by category: user, server, order. They may refer to error
    and category. By default 200 with both.
    """
    unknown: Reply | Literal["pending"] | None = None
    """The answer for an unknown or forgotten request id; None: 404."""
    kept_after_delivery: float | None = None
    """The seconds for which an outcome can be polled again; None: for ever."""

    results: Mapping[str, Shape] = field(factory=dict[str, Shape])
    """The changes of results, by kind of request. They may refer to `derived`: loss_sum and
    loss_mean.
    """
    results_as: Literal["json", "as accepted", "protobuf"] = "as accepted"
    metadata_above: int | None = None
    """The size in bytes above which a client that allows it first gets only the result's size."""

    batches: Batches = Batches()
    sampling: Sampling = Sampling()
    loading: Loading = Loading()
    paths: PathForms = PathForms()
    names_samplers: bool = True
    """Whether save_weights_for_sampler uses the name in the request."""
    full_weights_at_rank_0: bool = False
    """Whether rank 0 means training of all weights, for which an adapter stands in here."""
    checkpoint_in_create_model: bool = False
    """Whether create_model takes `checkpoint_path`."""
    needs_gradient: bool = False
    """Whether optim_step fails when there was no forward_backward since the last one."""
    bare_archives: bool = False
    """Whether the route of an archive takes the name of a checkpoint without its kind."""
    unload_by_query: bool = False
    """Whether unload_model expects model_id in the query instead of the body."""

"""`Profile`: the ways of one kind of Tinker server, as plain data. The defaults are those of the
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
"""A route without its prefix, as `tinkex_server.routes` has it: "create_model",
"samplers/{sampler_id}".
"""
Field: TypeAlias = str
"""A field of a body, by its keys joined by dots: "sampling_params.top_k"."""

BATCHES = ("forward_backward", "forward")
NUMBERED = (*BATCHES, "optim_step", "save_weights", "save_weights_for_sampler", "load_weights")
"""The operations that carry a seq_id."""


@frozen(kw_only=True)
class Bodies:
    """Which bodies are read, and how others are refused."""

    json: bool = True
    protobuf: bool = True
    zstd: bool = False
    other: int | Literal["unhandled"] = 415
    """The refusal of a body in an encoding that is not read: a status, or what becomes of FastAPI's
    reading it as JSON. That is 422 when its bytes are text; else the handler dies: 500 in plain
    text, and uvicorn closes the connection without having said so.
    """
    most_bytes: int | None = None
    release: tuple[int, int] | None = None
    """The release of the official client whose strict types the server reads by: later fields are
    refused.
    """


@frozen(kw_only=True)
class Auth:
    """Which header must carry a key. It must be the server's, if that has one; else any will do."""

    headers: Sequence[Literal["x-api-key", "authorization"]] = ("x-api-key",)
    missing: int = 401
    wrong: int = 401
    open_to_all: frozenset[Operation] = frozenset({"healthz"})


@frozen(kw_only=True)
class Rule:
    """What a field must be; a request that breaks it is refused with `status`."""

    operations: Sequence[Operation]
    field: Field
    status: int = 400
    needed: bool = False
    absent: bool = False
    """It must not be set; null is not set."""
    not_null: bool = False
    among: Sequence[Any] | None = None
    most: float | None = None
    """Of a number, or of a list's length."""
    not_text: bool = False


@frozen(kw_only=True)
class Edits:
    """What becomes of an operation's fields before they are acted on."""

    defaults: Mapping[Field, Any] = field(factory=dict[str, Any])
    ignored: Sequence[Field] = ()
    forced: Mapping[Field, Any] = field(factory=dict[str, Any])


@frozen(kw_only=True)
class Loss:
    """What a loss's name stands for: one of the engine's losses, with the request's settings or
    none.
    """

    name: str
    settings: bool = True


@frozen(kw_only=True)
class Batches:
    """What batches of training data may hold."""

    losses: Mapping[str, Loss] | None = None
    """By their names on the wire; None: the engine's own."""
    unknown_loss: int = 400
    weights_needed: bool = False
    """Whether cross_entropy needs `weights`; else they are ones where they are missing."""
    known_inputs_only: bool = False
    flat: Literal["as sent", "shapes dropped", "refused"] = "as sent"
    """What becomes of arrays of more than one dimension."""
    sparse: bool = True
    means: bool = False
    """Whether a loss is divided by the weights of all that is in its request."""
    padded_forward: bool = False
    """Whether a forward gives each datum as many logprobs as the longest of its batch has."""
    even_with_bearer: frozenset[str] = frozenset()
    """Losses that need an even number of data from those who send a bearer token; the future fails.
    """


@frozen(kw_only=True)
class Sampling:
    """How samples differ from what was asked for, without a word."""

    base_models: bool = True
    """Whether base models can be sampled from; else a sample of one is refused with 400."""
    base_is_first_live: bool = False
    """Whether a sample of a base model is drawn from the first model in training of it, if there is
    one.
    """
    base_session: str | None = None
    """The id of every sampling session of a base model."""
    first_chunk_only: bool = False
    zero_temperature_is: float | None = None
    greedy_when_plain: bool = False
    """Greedy for one sample at temperature 1 and top_p 1."""
    default_top_k: int | None = None
    """In the place of "off"."""
    named_weights: bool = True
    """Whether a sampling session can be made of what save_weights_for_sampler named; else the
    handler dies.
    """
    needs_base: bool = False
    """Whether a sample of weights whose session was not told the base model is refused with 400."""
    warped_logprobs: bool = False
    """Logprobs are of the distribution that was sampled from: after temperature, top_k and top_p.
    """
    stop_reason: str | None = None
    prompt_logprobs: Literal["whole", "without the first", "never"] = "whole"


@frozen(kw_only=True)
class Loading:
    """What load_weights can do."""

    by_session: bool = True
    """Whether a load can make a model."""
    no_model: int = 422
    """The refusal of one that cannot."""
    first_request_only: bool = False
    """Whether a model takes it as its first request alone, and refuses later ones with 400."""
    optimizer_if_saved: bool = False
    """Whether the optimizer's state is there only if save_weights asked for it by
    `include_optimizer`; else a load begins anew.
    """
    first_save_alone: bool = False
    """Whether what a model saved later is loaded as what it saved first, whose files it keeps."""
    missing_checkpoint: int | None = None
    """Refused with this status by the POST when there is no such checkpoint; else the future fails.
    """


@frozen(kw_only=True)
class Profile:
    """One kind of server."""

    name: str
    about: str

    missing: frozenset[str] = frozenset()
    """Routes that it lacks, as "POST forward"; answered 404, unless `replies` has another answer.
    """
    replies: Mapping[Operation, Reply] = field(factory=dict[str, Reply])
    """Operations, and paths outside the API, that are always answered so."""
    shapes: Mapping[Operation, Shape] = field(factory=dict[str, Shape])
    """What becomes of the answers of operations."""
    statuses: Mapping[Operation, int] = field(factory=dict[str, int])
    """Of good answers, where it is not 200; 204 has no body."""
    null_answers: frozenset[Operation] = frozenset()
    """Operations whose good answer is null."""
    refusal: Mapping[str, Any] = field(factory=lambda: {"detail": Ref("detail")})
    """The body of a refusal; may refer to detail, status and path."""
    request_ids: bool = False
    """Whether each answer has an `x-request-id`: the request's, or one made up for it."""
    starting: int = 0
    """So many calls are answered 503 before the server is ready."""

    auth: Auth | None = None
    bodies: Bodies = Bodies()
    rules: Sequence[Rule] = ()
    edits: Mapping[Operation, Edits] = field(factory=dict[str, Edits])

    ids: Ids = Ids()
    seq_ids: SeqIds = SeqIds()
    sample_repeats: bool = True
    """Whether a sample's repeated seq_id gets the promise of the first."""
    repeats_by_id_alone: bool = False
    """Whether a repeated (model, seq_id) gets the request id of the first, and is done again all
    the same.
    """
    refusals_take_numbers: bool = False
    """Whether a request of a model that is refused at its arrival takes its number all the same:
    another one with it is 409.
    """
    creates_anew: bool = False
    """Whether a repeated create_model or create_sampling_session makes another one."""

    promise: Shape = Shape({})
    """What becomes of promises; may refer to the request's fields, as `sent`."""
    sample_sequence_ids: bool = True
    promised: Mapping[Operation, Shape] = field(factory=dict[str, Shape])
    """Operations that answer a promise where others answer the thing itself, and what a poll gives
    then.
    """
    works_in_post: bool = False
    """Whether the work is done before the POST is answered; it fails as `failed` says."""
    refuses_late: frozenset[int] = frozenset()
    """Refusals of a model's requests that the future gives, with these statuses, and not the POST.
    """

    hold: float = 20.0
    """Seconds that a poll waits for a result. Clients give one 45."""
    pending: Reply | None = None
    """None: 408 with a try_again body that says what is waited for."""
    pending_once_more: bool = False
    """Whether a poll that was waiting when the result came is told "not yet"."""
    failed: Mapping[str, Reply] = field(factory=dict[str, Reply])
    """By whose fault it is: user, server, order. May refer to error and category. None: 200 with
    both.
    """
    unknown: Reply | Literal["pending"] | None = None
    """The answer for an id that is not known, or no longer. None: 404."""
    kept_after_delivery: float | None = None
    """Seconds for which an outcome can be had again; None: for ever."""

    results: Mapping[str, Shape] = field(factory=dict[str, Shape])
    """What becomes of results, by kind of request. May refer to `derived`: loss_sum and loss_mean.
    """
    results_as: Literal["json", "as accepted", "protobuf"] = "as accepted"
    metadata_above: int | None = None
    """A result of more bytes is announced by its size first, to a client that allows it."""

    batches: Batches = Batches()
    sampling: Sampling = Sampling()
    loading: Loading = Loading()
    paths: PathForms = PathForms()
    names_samplers: bool = True
    """Whether save_weights_for_sampler keeps the name that it is given."""
    full_weights_at_rank_0: bool = False
    """Whether rank 0 means that all weights are trained. An adapter stands in for them here."""
    checkpoint_in_create_model: bool = False
    """Whether create_model takes `checkpoint_path`."""
    needs_gradient: bool = False
    """Whether optim_step fails when no gradient was gathered since the last."""
    bare_archives: bool = False
    """Whether the routes of an archive take the bare name of a checkpoint, and no kind."""
    unload_by_query: bool = False
    """Whether unload_model wants model_id in the query, and not in the body."""

"""`Dialect`: the behaviour of one kind of server, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from attrs import evolve, field, fields, frozen
from attrs.validators import in_
from tinkex_api.types import html_table

from tinkex.errors.validators import positive

Encoding = Literal["json", "protobuf"]
Results = Literal["json", "by_accept", "protobuf"]
"""The form of the results of batches and samples: always JSON, as the Accept header asks, or always
protobuf.
"""
PendingForm = Literal["408", "try_again", "at_once"]
"""The answer "not yet" of a poll: status 408, a 200 of type try_again, or none at all, since the
work is done within the POST.
"""
FailedForm = Literal["200", "400", "422"]
"""The status of a poll whose work has failed."""
SeqIdOrder = Literal["ordered", "strict", "arrival"]
"""The order of training requests: a server waits for a missing seq_id (`"ordered"`), refuses a
wrong one (`"strict"`), or goes by arrival.
"""
SeqIdRepeats = Literal["repeats", "refuses", "ignores", "unknown"]
"""The treatment of a repeated (model, seq_id): a server repeats the first request's answer, refuses
the second one, or ignores the number and applies both.
"""
Resume = Literal["by_session", "load_first", "by_create", "never"]
"""The way to make a model from a checkpoint: by one load_weights of the session; by weights_info,
create_model and load_weights; by the `checkpoint_path` of create_model; or none.
"""


@frozen
class Evidence:
    """The source of a fact about a server. What was only read in its source code may differ when it
    runs.
    """

    how: Literal["measured", "read", "probed", "said", "given"]
    """Whether the fact was measured by its effect on a running server, read in its source code,
    probed by `probe_server` in this process, said by the server itself, or given by the user.
    """
    release: str = ""
    """The server's release; the day of its source code if that was not released."""
    day: str = ""
    """The day on which the fact was measured or read."""
    saw: str = ""
    """The observation, for a measured fact."""

    def __str__(self) -> str:
        return ", ".join(part for part in (self.how, self.release, self.day) if part)


@frozen(kw_only=True)
class ChunkLimits:
    """The largest part of a batch in one request. A larger batch is split, in order.

    Example:
        limits = ChunkLimits(max_items=64, max_size=32_768, unit="tokens")
        config = Config(chunk_limits=limits)
        service = ServiceClient(config=config)
    """

    max_items: int = field(default=1024, validator=positive)
    """The maximum number of datums."""
    max_size: int = field(default=5_000_000, validator=positive)
    """The maximum size in `unit`."""
    unit: Literal["bytes", "tokens"] = field(default="bytes", validator=in_(("bytes", "tokens")))
    """The unit of `max_size`. Bytes are estimated: 4 per token, the bytes of images, and the bytes
    of the arrays of loss inputs.
    """

    def smaller(self) -> ChunkLimits:
        """Returns half of the limits, for a server that refused a request as too large."""
        return evolve(
            self, max_items=max(1, self.max_items // 2), max_size=max(1, self.max_size // 2)
        )


@frozen(kw_only=True)
class SamplingRules:
    """The ways in which a server samples differently from what is asked.

    The defaults describe a server that does what it is asked. `Dialect.sampling` holds the rules.

    Example:
        rules = SamplingRules(seeds=False, max_samples=64)
        dialect = Dialect(name="my-server", sampling=rules)
        config = Config(base_url="http://localhost:8000", api_key="tml-x", dialect=dialect)
    """

    base_models: bool = True
    """Whether a base model can be sampled without a model in training."""
    saved_names: bool = True
    """Whether named weights of save_weights_for_sampler can be sampled; if not, only checkpoints of
    save_weights.
    """
    prompt_logprobs: bool = True
    """Whether it returns prompt logprobs."""
    seeds: bool = True
    """Whether a seed has an effect."""
    stops: bool = True
    """Whether stop tokens and stop strings have an effect."""
    names_base: bool = False
    """Whether a sampling session of saved weights also needs the name of the base model."""
    temperature: float | None = None
    """The only temperature at which it samples, if there is only one."""
    greedy_temperature: float = 0.0
    """The temperature for greedy sampling: one server takes 0 for 1."""
    top_p_off: float = 1.0
    """The `top_p` that disables nucleus sampling: one server decodes greedily at 1.0."""
    top_k_off: int = -1
    """The `top_k` that disables top-k sampling: one server takes -1 for 50."""
    default_max_tokens: int | None = 256
    """The `max_tokens` to send if the user gives none, since some servers refuse a request without
    it, and others take 20. None if it can be omitted; the server then samples up to the model's
    context length.
    """
    max_tokens: int | None = None
    """The largest `max_tokens` of a request; None if there is no limit."""
    max_samples: int | None = None
    """The largest number of samples of a request; None if there is no limit."""


@frozen(kw_only=True, repr=False)
class Dialect:
    """The behaviour of one kind of server. The defaults are safe on all servers.

    `service.server` shows the dialect in use. `Config(dialect=…)` sets it: the name of one in
    docs/servers.md, or an instance of this class.

    Example:
        dialect = Dialect(name="my-server", encodings=("json",), failed="400")
        config = Config(base_url="http://localhost:8000", api_key="tml-x", dialect=dialect)
        service = ServiceClient(config=config)
    """

    name: str = "unknown"
    about: str = "a server of unknown kind"
    source: Evidence = Evidence("given")
    """The source of the fields that `evidence` does not list."""
    evidence: Mapping[str, Evidence] = field(factory=dict[str, Evidence])
    """The sources of single fields. A part of a field is named with a dot: `sampling.stops`,
    `missing.forward`.
    """

    encodings: tuple[Encoding, ...] = ("json", "protobuf")
    """The encodings of training batches, the best first. There are several until the server
    accepted a first batch.
    """
    results: Results = "by_accept"
    compress_protobuf: bool = False
    """Whether protobuf bodies are compressed with zstd."""
    chunk_limits: ChunkLimits = ChunkLimits()
    splits_batches: bool = True
    """Whether a batch trains the same in several requests as in one. It does not if the loss is
    divided by the contents of a request.
    """
    parallel_chunks: bool = False
    """Whether the chunks of a batch are sent at the same time. Only the server itself can say so,
    since some servers reorder such requests.
    """
    max_body_bytes: int | None = None
    """The largest request body in bytes."""
    bearer: bool = False
    """Whether it also needs the key as `Authorization: Bearer`."""
    exchanges_keys: bool = False
    """Whether it needs a JWT, which it issues in exchange for the key."""
    wants_credential_cmd: bool = False
    """Whether it accepts only a key that `TINKER_CREDENTIAL_CMD` prints, or a JWT."""
    refused_fields: Mapping[str, frozenset[str]] = field(factory=dict[str, frozenset[str]])
    """The fields of the API that it refuses as unknown, by operation."""

    pending: PendingForm = "try_again"
    failed: FailedForm = "200"
    fails_by_kind: bool = False
    """Whether a poll of failed work has the status of the failure, such as 404 for a missing
    checkpoint, 403 or 409.
    """
    hold: float = 0.0
    """The seconds for which it holds a poll; 0 if that is short or unknown."""
    long_posts: bool = False
    """Whether a POST takes as long as its work."""
    results_once: bool = False
    """Whether a result is given out only once."""
    bulk_results: bool = False
    """Whether the results of a sampler are polled in bulk, by retrieve_futures."""
    cancels: bool = False
    """Whether cancel_future may be called."""
    cancels_at_once: int = 64
    """The largest number of concurrent cancel_future calls."""

    seq_id_order: SeqIdOrder = "arrival"
    seq_id_repeats: SeqIdRepeats = "unknown"
    overtakes: bool = False
    """Whether it may run a step, a load or a save before batches that were sent earlier. Such a
    call is then sent only when the batches are done. Batches need not wait: the server runs none
    before an earlier step.
    """
    failed_step_keeps_number: bool = False
    """Whether a failed step does not use up its number, so that the next step takes it."""

    refusals_take_numbers: bool = False
    """Whether a training request that is refused at once uses up its number."""

    missing: Mapping[str, str] = field(factory=dict[str, str])
    """The operations of the API that it lacks, each with advice on what to do instead."""
    losses: frozenset[str] | None = None
    """The loss functions that it has; None if it refuses unknown ones itself."""
    loss_notes: Mapping[str, str] = field(factory=dict[str, str])
    """The differences between its losses and the usual ones, by the name of the loss."""
    divides_by_weights: bool = False
    """Whether its cross_entropy of a datum is divided by the sum of the weights. Custom losses,
    whose weights have both signs, then use importance_sampling instead.
    """
    bare_archive_ids: bool = False
    """Whether the archive's route, and lists of checkpoints, have a checkpoint's name without its
    kind.
    """
    asks_to_save_optimizer: bool = False
    """Whether save_weights saves the optimizer's state only if `include_optimizer` is set."""
    forwards_by_zero_weights: bool = False
    """Whether a forward is sent as a forward_backward of cross_entropy with all weights 0, which
    adds no gradient, since some releases lack the forward call.
    """
    pads_logprobs: bool = False
    """Whether the logprobs of each datum are padded to the length of the longest one of its batch.
    """
    loads_keep_optimizer: bool = False
    """Whether a load without the optimizer's state restores it nevertheless."""
    tells_rank: bool = True
    """Whether weights_info tells the rank of the LoRA adapter."""
    saves_once: bool = False
    """Whether every later save_weights of a model keeps the files of its first one."""
    reports_state_loss: bool = False
    """Whether a failed request tells if the server has lost steps of its model. Elsewhere a save
    that failed by the server's fault may mean so.
    """
    loads_begin_anew: bool = False
    """Whether a load with the optimizer's state resets it nevertheless."""
    loads_are_true: bool = False
    """Whether it was measured that loads restore the weights that were saved. Loads are then not
    checked by default.
    """
    resume: Resume = "load_first"
    joins_samplers: bool = False
    """Whether a copied sampling client asks the server for a number of its own."""
    streams_samples: bool = False
    """Whether it streams the tokens of a sample, by sample_stream."""
    serves_tokenizers: bool = False
    """Whether it serves the tokenizers of its models, by get_tokenizer."""
    keeps_metrics: bool = False
    """Whether it keeps metrics that programs compute for the steps of a run, by add_metrics."""
    inflight_saves: bool = False
    """Whether it supports in-flight weights, which later saves replace in the samplers that use
    them.
    """
    runs_custom_losses: bool = False
    """Whether custom losses can be uploaded."""
    unloads_by_query: bool = False
    """Whether unload_model expects the model's id in the URL."""
    sampling: SamplingRules = SamplingRules()

    def __repr__(self) -> str:
        return f"<Dialect {self.name}: {self.about}>"

    def _repr_html_(self) -> str:
        """Returns what is known of the server as a table of HTML, for notebooks."""
        rows = (
            (item.name, repr(getattr(self, item.name)), str(self.known(item.name)))
            for item in fields(type(self))
            if item.name not in ("name", "about", "source", "evidence")
        )
        return html_table(("fact", "value", "source"), rows, f"{self.name}: {self.about}")

    def known(self, name: str) -> Evidence:
        """Returns the source of a field, or of a part of one."""
        return self.evidence.get(name) or self.evidence.get(name.partition(".")[0], self.source)

    def as_trusted(self) -> Dialect:
        """Returns the dialect with `seq_id_repeats="unknown"` if that field was only read in the
        source code: no step may be lost or doubled because of it.
        """
        return (
            evolve(self, seq_id_repeats="unknown")
            if self.known("seq_id_repeats").how == "read"
            else self
        )

    def with_known(self, how: Evidence, **fields: Any) -> Dialect:
        """Returns the dialect with new values of fields, and their source."""
        return evolve(self, **fields, evidence={**self.evidence, **dict.fromkeys(fields, how)})

    def lacks(self, operation: str) -> bool:
        return operation in self.missing

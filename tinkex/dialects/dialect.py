"""`Dialect`: the ways of one kind of server, as plain data that every layer reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from attrs import evolve, field, frozen
from attrs.validators import in_

from tinkex.errors import ConfigError

Encoding = Literal["json", "protobuf"]
Results = Literal["json", "by_accept", "protobuf"]
"""The form of a batch's or a sample's result: always JSON, as the Accept header asks, always
protobuf.
"""
PendingForm = Literal["408", "try_again", "at_once"]
"""How a poll says "not yet": status 408, a 200 of type try_again, or not at all, since the work is
done within the POST.
"""
FailedForm = Literal["200", "400", "422"]
"""The status with which a poll says that the work failed."""
SeqIdOrder = Literal["ordered", "strict", "arrival"]
"""What a server makes of the order of seq_ids: it waits for a missing one, refuses a wrong one, or
goes by arrival.
"""
SeqIdRepeats = Literal["repeats", "refuses", "ignores", "unknown"]
"""What a server does with a repeated (model, seq_id): answers with the first request's promise,
refuses, applies it twice.
"""
Resume = Literal["by_session", "load_first", "by_create", "never"]
"""How a model is made from a checkpoint: by one load_weights of the session; by weights_info,
create_model and load_weights; by the `checkpoint_path` of create_model; not.
"""


@frozen
class Evidence:
    """How it is known what a server does. What was only read in its source may be otherwise when it
    runs.
    """

    how: Literal["measured", "read", "probed", "said", "given"]
    """FirstAnswers by its effect on a running server; read in its source; found by `probe_server` in this
    process; said by the server itself; given by the user.
    """
    release: str = ""
    """Of the server; the day of its sources, where those were not released."""
    day: str = ""
    """On which it was seen or read."""
    saw: str = ""
    """What was seen, of what was measured."""

    def __str__(self) -> str:
        return ", ".join(part for part in (self.how, self.release, self.day) if part)


def _positive(limits: object, attribute: Any, value: float) -> None:
    if not value > 0:
        raise ConfigError(
            f"{type(limits).__name__}.{attribute.name} must be more than 0, not {value!r}"
        )


@frozen(kw_only=True)
class ChunkLimits:
    """How much of a batch goes into one request; a larger batch is split, in order."""

    max_items: int = field(default=1024, validator=_positive)
    """Datums."""
    max_size: int = field(default=5_000_000, validator=_positive)
    """In `unit`."""
    unit: Literal["bytes", "tokens"] = field(default="bytes", validator=in_(("bytes", "tokens")))
    """Bytes are estimated: 4 a token, images as they are, loss inputs by their arrays' sizes."""

    def smaller(self) -> ChunkLimits:
        """Half of it, for a server that was given more than it can take at once."""
        return evolve(
            self, max_items=max(1, self.max_items // 2), max_size=max(1, self.max_size // 2)
        )


@frozen(kw_only=True)
class SamplingRules:
    """How a server samples, where it is otherwise than asked. The defaults are those of one that
    does what it is asked.
    """

    base_models: bool = True
    """Whether a base model can be sampled, without a model in training."""
    saved_names: bool = True
    """Whether what save_weights_for_sampler saved by name can be sampled; elsewhere only what
    save_weights saved.
    """
    prompt_logprobs: bool = True
    """Whether it gives any."""
    seeds: bool = True
    """Whether a seed has an effect."""
    stops: bool = True
    """Whether stop tokens and texts have an effect."""
    names_base: bool = False
    """Whether a session of saved weights needs the name of the base model as well."""
    temperature: float | None = None
    """The only one that it samples at."""
    greedy_temperature: float = 0.0
    """What greedy sampling is asked for by: one server takes 0 for 1."""
    top_p_off: float = 1.0
    """What asks for sampling from all of the distribution; one server decodes greedily at 1.0."""
    top_k_off: int = -1
    """The same; one server takes -1 for 50."""
    default_max_tokens: int | None = 256
    """What is asked for where the user says nothing, since some servers refuse a request without it
    and others take 20; None where nothing need be sent, and the server then goes up to the model's
    context.
    """
    max_tokens: int | None = None
    """At most so many in one request."""
    max_samples: int | None = None
    """At most so many in one request."""


@frozen(kw_only=True)
class Dialect:
    """The ways of one kind of server. The defaults are safe on all.

    Shown by `service.server`, given by `Config(dialect=…)`: the name of one in
    `tinkex.dialects.table`, or a value of this class.
    """

    name: str = "unknown"
    about: str = "a server of unknown kind"
    source: Evidence = Evidence("given")
    """How the fields below are known, but those of `evidence`."""
    evidence: Mapping[str, Evidence] = field(factory=dict[str, Evidence])
    """By field; a part of one is named with a point: `sampling.stops`, `missing.forward`."""

    encodings: tuple[Encoding, ...] = ("json", "protobuf")
    """Of training batches, the best first. More than one until the first batch was taken."""
    results: Results = "by_accept"
    compress_protobuf: bool = False
    """Whether protobuf bodies are compressed by zstd."""
    chunk_limits: ChunkLimits = ChunkLimits()
    splits_batches: bool = True
    """Whether a batch trains the same in several requests as in one: not where a loss is divided by
    what is in a request.
    """
    parallel_chunks: bool = False
    """Chunks of one batch together, only where the server says so: some reorder what comes
    together.
    """
    max_body_bytes: int | None = None
    """The largest body that it reads."""
    bearer: bool = False
    """Whether it wants the key as `Authorization: Bearer` as well."""
    exchanges_keys: bool = False
    """Whether it wants a JWT in the key's place, which it gives in exchange for the key."""
    wants_credential_cmd: bool = False
    """Whether it takes no key but what `TINKER_CREDENTIAL_CMD` prints, or a JWT."""
    refused_fields: Mapping[str, frozenset[str]] = field(factory=dict[str, frozenset[str]])
    """By operation, fields of the contract that it does not know and does not take."""

    pending: PendingForm = "try_again"
    failed: FailedForm = "200"
    fails_by_kind: bool = False
    """Whether a poll of failed work has the status of what failed: 404 for a loss or a checkpoint
    that there is not, 403, 409.
    """
    hold: float = 0.0
    """Seconds for which it holds a poll; 0 where that is short or not known."""
    long_posts: bool = False
    """Whether the POST itself lasts as long as the work."""
    results_once: bool = False
    """Whether a result is given out once only."""
    bulk_results: bool = False
    """Whether the results of a sampler are waited for together, by retrieve_futures."""
    cancels: bool = False
    """Whether cancel_future may be called."""
    cancels_at_once: int = 64
    """At most so many of these calls together."""

    seq_id_order: SeqIdOrder = "arrival"
    seq_id_repeats: SeqIdRepeats = "unknown"
    overtakes: bool = False
    """Whether it may run what changes or saves a model before batches that were sent earlier, so
    that such a call is sent only when those are done. Batches wait for nothing: it runs none before
    an earlier step.
    """
    failed_step_keeps_number: bool = False
    """Whether a step that failed leaves the count where it was, so that the next one takes its
    number.
    """

    refusals_take_numbers: bool = False
    """Whether a training request that is refused at its arrival takes its number all the same."""

    missing: Mapping[str, str] = field(factory=dict[str, str])
    """Operations of the contract that it lacks, each with what to do instead."""
    losses: frozenset[str] | None = None
    """The loss functions that it has; None where it refuses others itself."""
    loss_notes: Mapping[str, str] = field(factory=dict[str, str])
    """Where a loss of it is not what its name says elsewhere."""
    divides_by_weights: bool = False
    """Whether its cross_entropy of a datum is divided by the sum of the weights, and so is of no
    use for a custom loss, whose weights have both signs: that is trained by importance_sampling
    there.
    """
    bare_archive_ids: bool = False
    """Whether the archive's route takes the name of a checkpoint alone, without the kind before it;
    its lists name it so.
    """
    asks_to_save_optimizer: bool = False
    """Whether save_weights keeps the optimizer's state only where `include_optimizer` asks for it.
    """
    forwards_by_zero_weights: bool = False
    """Whether a forward goes as a forward_backward of cross_entropy with all weights 0, which adds
    no gradient: some release of it lacks the other call.
    """
    pads_logprobs: bool = False
    """Whether logprobs of a datum are as many as its batch's longest has; those past its own
    targets say nothing.
    """
    loads_keep_optimizer: bool = False
    """Whether a load without the optimizer's state takes it over all the same."""
    tells_rank: bool = True
    """Whether weights_info tells the rank of an adapter."""
    saves_once: bool = False
    """Whether each save_weights of a model but its first keeps the files of the first."""
    loads_begin_anew: bool = False
    """Whether a load with the optimizer's state begins it anew all the same."""
    loads_are_true: bool = False
    """Whether it was measured that a load brings back the weights that were saved, so that none is
    compared with them by default.
    """
    resume: Resume = "load_first"
    joins_samplers: bool = False
    """Whether a copied sampling client asks the server for its number."""
    streams_samples: bool = False
    """Whether it gives a sample's tokens as they come, by sample_stream."""
    serves_tokenizers: bool = False
    """Whether it gives its models' tokenizers itself, by get_tokenizer."""
    inflight_saves: bool = False
    """Whether weights can be saved so that newer ones take their place in the samplers that have
    them.
    """
    runs_custom_losses: bool = False
    """Whether custom losses can be uploaded."""
    unloads_by_query: bool = False
    """Whether unload_model takes the model's id in the URL."""
    sampling: SamplingRules = SamplingRules()

    def known(self, name: str) -> Evidence:
        """How the field of this name, or the part of one, is known."""
        return self.evidence.get(name) or self.evidence.get(name.partition(".")[0], self.source)

    def as_trusted(self) -> Dialect:
        """The dialect with nothing said of repeated steps where that was read and never measured: a
        step may not be lost by it.
        """
        return (
            evolve(self, seq_id_repeats="unknown")
            if self.known("seq_id_repeats").how == "read"
            else self
        )

    def with_known(self, how: Evidence, **fields: Any) -> Dialect:
        """The dialect with what is now known."""
        return evolve(self, **fields, evidence={**self.evidence, **dict.fromkeys(fields, how)})

    def lacks(self, operation: str) -> bool:
        return operation in self.missing

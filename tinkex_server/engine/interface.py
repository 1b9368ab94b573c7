"""What the embedded server asks of an engine: plain values in, plain values out.

The HTTP side knows nothing of torch and the engine nothing of HTTP, so an engine can move to other
processes or machines without touching the wire. Every method but `sample` blocks; the server calls
them from its worker threads, one call a model at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray

ADAPTER_FILES = "adapter_config.json", "adapter_model.safetensors"
"""The files of an adapter, by the names that peft gives them."""


class InvalidRequest(ValueError):
    """The request cannot be carried out as asked: its sender's fault. The text names the item and
    the field.
    """


class EngineDied(RuntimeError):
    """The engine has died, and the call with it: whatever was done of it is lost. The text says how
    it died.
    """


@frozen
class EngineExit:
    """All that was in an engine's memory is lost. `reason` is for people."""

    reason: str
    resume: Callable[[], None] | None
    """Does not block: calls until then raise `EngineDied`, later ones go to a new, empty engine.
    None: there will be no other.
    """


@frozen
class ModelInfo:
    """A base model that the engine can train and sample."""

    name: str
    max_context_length: int  # tokens
    vocab_size: int
    arch: str  # the transformers class, for example "Qwen3ForCausalLM"
    # what a client elsewhere can load the tokenizer by: a hub id, or a name that it gave itself
    tokenizer_id: str
    # the text of its tokenizer.json, where it has one
    tokenizer_json: str | None = field(default=None, repr=False)
    # likewise of its tokenizer_config.json
    tokenizer_config_json: str | None = field(default=None, repr=False)
    # why the context is shorter than the one that the model was made for, where it is
    context_note: str = ""
    # where its files are on this machine, unless transformers finds them by the name
    folder: str | None = None


@frozen
class LoraShape:
    """The shape of one LoRA adapter; `seed` fixes its initial weights."""

    rank: int
    seed: int | None = None
    train_attn: bool = True
    train_mlp: bool = True
    train_unembed: bool = True


@frozen
class Example:
    """One datum: token ids `(N,)` and the loss inputs by name, each `(N,)`, or `(N, K)` for several
    targets a position.
    """

    tokens: NDArray[np.int64]
    loss_inputs: Mapping[str, NDArray[np.generic]]


@frozen
class CustomLoss:
    """A loss of one datum that a client sent: its inputs' names and ranks, and the nodes of its
    graph as plain JSON values.

    The nodes are those of openapi/tinker.yaml, CustomLossGraph. The batch's loss is the sum of its
    datums'.
    """

    inputs: Sequence[tuple[str, int]]
    nodes: Sequence[Mapping[str, Any]]


@frozen
class LossResult:
    """One mapping of arrays a datum, in order, and the metrics as `name:reduction`, of which
    `loss:sum` is always one.
    """

    loss_fn_outputs: Sequence[Mapping[str, NDArray[np.float32]]]
    metrics: Mapping[str, float]


OptimizerKind: TypeAlias = Literal["adamw", "dimuon", "sgd"]


@frozen
class AdamSettings:
    """The parameters of one AdamW step; `grad_clip_norm` 0 clips nothing."""

    kind: ClassVar[OptimizerKind] = "adamw"
    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-12
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0


@frozen
class DimuonSettings:
    """The parameters of one step of Muon, which goes by that name on the wire."""

    kind: ClassVar[OptimizerKind] = "dimuon"
    learning_rate: float
    beta1: float = 0.9
    grad_clip_norm: float = 0.0


@frozen
class SgdSettings:
    """The parameters of one step of gradient descent."""

    kind: ClassVar[OptimizerKind] = "sgd"
    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0


OptimizerSettings: TypeAlias = AdamSettings | DimuonSettings | SgdSettings


@frozen
class SampleSpec:
    """What to sample. `stop_strings` and `stop_tokens` both None keep the model's end-of-sequence
    stop; empty ones turn it off.
    """

    prompt: Sequence[int]
    num_samples: int = 1
    max_tokens: int | None = None  # None: up to the model's context length
    temperature: float = 1.0  # 0: greedy
    top_k: int = -1  # -1 or 0: off
    top_p: float = 1.0
    seed: int | None = None
    stop_strings: Sequence[str] | None = None
    stop_tokens: Sequence[int] | None = None
    prompt_logprobs: bool = False
    topk_prompt_logprobs: int = 0
    topk_sample_logprobs: int = 0
    # (len(prompt) - 1, K): row i asks about position i + 1; -1 for none
    target_prompt_tokens: NDArray[np.int64] | None = None
    prompt_alt_tokens_k: int = 0
    prompt_logprobs_last_n: int | None = None  # None: of all tokens


TopTokens: TypeAlias = Sequence[tuple[int, float]]
"""Tokens with their logprobs, best first."""
OnToken: TypeAlias = Callable[[int, float], None]
"""Gets each token, with its logprob, as it is sampled. It must not block."""


@frozen
class SampledTokens:
    """One sampled sequence: tokens and their log-probabilities `(M,)` under the model at
    temperature 1, untruncated.
    """

    tokens: Sequence[int]
    logprobs: Sequence[float]
    stop_reason: str  # "stop" or "length"
    topk_logprobs: Sequence[TopTokens] | None = None  # for each token


@frozen
class SampleResult:
    """What was sampled. `prompt_logprobs` is `(len(prompt),)`, None for the first token and all
    before the last n.

    `topk_prompt_logprobs` is likewise: `(token, logprob)` pairs, best first.
    `target_prompt_logprobs` is of the shape of `target_prompt_tokens`, 0 where no token was asked
    about. `prompt_alt_tokens` are the tokens drawn and their logprobs, each `(len(prompt) - 1, k)`.
    """

    sequences: Sequence[SampledTokens]
    prompt_logprobs: Sequence[float | None] | None = None
    topk_prompt_logprobs: Sequence[TopTokens | None] | None = None
    target_prompt_logprobs: NDArray[np.float32] | None = None
    prompt_alt_tokens: tuple[NDArray[np.int64], NDArray[np.float32]] | None = None


def already_ready(runs_on: str) -> Future[str]:
    """`Engine.ready` of one that can compute when it is made."""
    ready: Future[str] = Future()
    ready.set_result(runs_on)
    return ready


class Engine(Protocol):
    """Training and sampling of LoRA adapters over shared, frozen base models.

    `model_id` names a model in training. `sampler_id` names loaded sampler weights.
    Unknown ids, unknown losses and bad inputs raise `InvalidRequest`.
    """

    @property
    def base_models(self) -> Sequence[ModelInfo]:
        """Known at once, before it is ready."""
        ...

    @property
    def ready(self) -> Future[str]:
        """Done when it can compute; calls before that wait for it.

        The result is for people: what computes, where, and in which precision, for example "torch
            on cpu, float32". `EngineDied` says what keeps it from being ready for good; calls then
            raise it, too.
        """
        ...

    def create_model(
        self, model_id: str, base_model: str, lora: LoraShape, optimizer: OptimizerKind = "adamw"
    ) -> Sequence[str]:
        """Returns what its maker should know of such a model, in words that name the base model and
        not the model.
        """
        ...

    def unload_model(self, model_id: str) -> None: ...

    def check_loss(self, loss: CustomLoss) -> None:
        """Raises `InvalidRequest` for a loss that `forward_backward` would not run, whatever the
        data.
        """
        ...

    def forward_backward(
        self,
        model_id: str,
        data: Sequence[Example],
        loss_fn: str | CustomLoss,
        config: Mapping[str, float],
        *,
        backward: bool,
    ) -> LossResult:
        """Adds the gradients of the loss to those of the model, when `backward`; else computes the
        same without a gradient.

        When it raises, the model's gradients are as they were. It raises `InvalidRequest`, naming
        the datum where that is known, for a loss or a gradient that is not finite.
        """
        ...

    def optim_step(self, model_id: str, settings: OptimizerSettings) -> Mapping[str, float]:
        """Applies the gradients gathered since the last step and clears them; returns metrics.

        Raises `InvalidRequest`, with all as it was, for settings of another kind than the model's
        optimizer. Raises it, too, for gradients whose norm is not finite, and for a step that would
        make a weight or the optimizer's state so: then weights and state are as they were, and the
        gradients are dropped.
        """
        ...

    def save_model(self, model_id: str, folder: Path, *, optimizer: bool) -> None:
        """Writes a peft adapter (adapter_config.json, adapter_model.safetensors), and the
        optimizer's state if `optimizer`.

        It makes the folder, which is not there before; nobody looks into it until this returns.
        Gradients that wait for their optim_step are not part of it. Raises `InvalidRequest` for
        weights that are not finite.
        """
        ...

    def load_model(self, model_id: str, folder: Path, *, optimizer: bool) -> None:
        """Gives the model the weights in `folder`, and the optimizer's state if `optimizer`; else
        its optimizer starts anew.

        Gradients that wait for their optim_step are dropped. Raises `InvalidRequest`, with the
        model as it was, when the weights do not fit it or are not finite, or the optimizer's state
        was not saved or is of another kind.
        """
        ...

    def import_adapter(self, base_model: str, lora: LoraShape, source: Path, folder: Path) -> None:
        """Writes the adapter whose `ADAPTER_FILES` are in `source` to `folder`, as `save_model`
        does.

        The adapter may have been made elsewhere. Layers of the shape that it does not have change
        nothing until they are trained. Raises `InvalidRequest` for files that hold no adapter of
        this shape for that base model, and for what would be lost of one.
        """
        ...

    def load_sampler(self, sampler_id: str, base_model: str, folder: Path | None) -> None:
        """Makes the adapter in `folder` (None: the base model alone) sampleable under `sampler_id`.

        Under an id that is in use, the adapter, which must be of the same shape, takes the place of
        the one before, for the samples that begin later.
        """
        ...

    def unload_sampler(self, sampler_id: str) -> None:
        """Frees the weights' memory, once the samples that began have ended. An id that is not
        loaded is ignored.
        """
        ...

    def sample(
        self, sampler_id: str, spec: SampleSpec, on_token: OnToken | None = None
    ) -> Future[SampleResult]:
        """Begins to sample, beside what else is sampled, and returns at once. Cancelling the future
        ends it.

        The samples are of the weights as they are now. `on_token` is called on a thread of the
        engine; whoever gives it asks for one sample.
        """
        ...

    def watch(self, died: Callable[[EngineExit], None]) -> None:
        """Has `died` called, on a thread of the engine, each time that it dies. One that lives in
        the server's process does not.
        """
        ...

    def close(self) -> None:
        """Gives up all that is under way. Nothing may be called after."""
        ...

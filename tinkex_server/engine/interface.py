"""The interface between the embedded server and its engines.

Engines take and return plain values. The HTTP side knows nothing of torch and the engine nothing of
HTTP, so an engine can move to other processes or machines without touching the wire. All methods
block, except `sample`, `watch` and those that say so; the server calls them from worker threads,
one call at a time for each model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray

ADAPTER_FILES = "adapter_config.json", "adapter_model.safetensors"
"""The files of an adapter, by the names that peft gives them."""


class InvalidRequest(ValueError):
    """An error that the sender of a request must correct. The text names the item and the field."""


def unknown_base_model(name: str, known: Iterable[str]) -> InvalidRequest:
    """Returns the error of a request for a base model that is not among the known ones."""
    return InvalidRequest(f"unknown base model {name!r}; this server has {', '.join(known)}")


class EngineDied(RuntimeError):
    """The error of a call that was lost because the engine died. The text says why it died."""


class EngineGone(EngineDied):
    """The error of all calls of an engine that will not compute again, though its process lives."""


@frozen
class EngineExit:
    """The loss of an engine, or of a part of it, with what was in its memory. `reason` is for
    people.
    """

    reason: str
    resume: Callable[[], None] | None
    """A callback that lets calls through to a new, empty engine; until then they raise
    `EngineDied`. It does not block. None if no new engine is started.
    """
    base_model: str | None = None
    """The base model whose models in training are lost, where nothing else is. None: everything in
    memory is lost, with the weights for sampling.
    """


@frozen
class ModelInfo:
    """A base model that the engine can train and sample."""

    name: str
    max_context_length: int  # tokens
    vocab_size: int
    arch: str  # the transformers class, for example "Qwen3ForCausalLM"
    # the name by which a client can load the tokenizer: a hub id, or the name given to `serve`
    tokenizer_id: str
    # the content of its tokenizer.json, if it has one
    tokenizer_json: str | None = field(default=None, repr=False)
    # the content of its tokenizer_config.json, if it has one, with its chat template
    tokenizer_config_json: str | None = field(default=None, repr=False)
    # why the context length is shorter than the model's own, if it is
    context_note: str = ""
    # the local folder of its files, unless transformers finds them by the name
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
    """One datum: token ids `(N,)`, int64, and the loss inputs by name, each `(N,)`, or `(N, K)`
    with K targets per position.
    """

    tokens: NDArray[np.int64]
    loss_inputs: Mapping[str, NDArray[np.generic]]


@frozen
class CustomLoss:
    """A loss of one datum that a client sent: the names and ranks of its inputs, and the nodes of
    its graph as plain JSON values.

    The nodes are described in openapi/tinker.yaml, CustomLossGraph. The loss of a batch is the sum
    over its data.
    """

    inputs: Sequence[tuple[str, int]]
    nodes: Sequence[Mapping[str, Any]]


@frozen
class LossResult:
    """The result of `forward_backward`: one mapping of arrays for each datum, in order, and the
    metrics, named `name:reduction`. `loss:sum` is always among them.
    """

    loss_fn_outputs: Sequence[Mapping[str, NDArray[np.float32]]]
    metrics: Mapping[str, float]


OptimizerKind: TypeAlias = Literal["adamw", "dimuon", "sgd"]


@frozen
class AdamSettings:
    """The parameters of one AdamW step. A `grad_clip_norm` of 0 means no clipping."""

    kind: ClassVar[OptimizerKind] = "adamw"
    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-12
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0


@frozen
class DimuonSettings:
    """The parameters of one Muon step; `dimuon` is Muon's name on the wire."""

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
    """The parameters of one sampling request.

    If `stop_strings` and `stop_tokens` are both None, the model's end-of-sequence tokens stop a
    sample; empty sequences turn that off.
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
    # (len(prompt) - 1, K): row i holds targets of position i + 1; -1 for none
    target_prompt_tokens: NDArray[np.int64] | None = None
    prompt_alt_tokens_k: int = 0
    prompt_logprobs_last_n: int | None = None  # None: all tokens


TopTokens: TypeAlias = Sequence[tuple[int, float]]
"""Tokens with their logprobs, the most likely first."""
OnToken: TypeAlias = Callable[[int, float], None]
"""A callback that receives each token, with its logprob, as soon as it is sampled. It must not
block.
"""


@frozen
class SampledTokens:
    """One sampled sequence: tokens `(M,)` and their logprobs `(M,)` under the model at temperature
    1, without truncation.
    """

    tokens: Sequence[int]
    logprobs: Sequence[float]
    stop_reason: str  # "stop" or "length"
    topk_logprobs: Sequence[TopTokens] | None = None  # for each token


@frozen
class SampleResult:
    """The sampled sequences, and the scores of the prompt that were requested.

    `prompt_logprobs` has shape `(len(prompt),)`; it is None for the first token and for all tokens
    before the last n. `topk_prompt_logprobs` has the same length and holds `(token, logprob)`
    pairs, the most likely first. `target_prompt_logprobs` has the shape of `target_prompt_tokens`,
    with 0 where no token was requested. `prompt_alt_tokens` are sampled tokens and their logprobs,
    each of shape `(len(prompt) - 1, k)`. `prompt_cache_hit_tokens` of the prompt were not computed,
    since an earlier prompt began alike.
    """

    sequences: Sequence[SampledTokens]
    prompt_logprobs: Sequence[float | None] | None = None
    topk_prompt_logprobs: Sequence[TopTokens | None] | None = None
    target_prompt_logprobs: NDArray[np.float32] | None = None
    prompt_alt_tokens: tuple[NDArray[np.int64], NDArray[np.float32]] | None = None
    prompt_cache_hit_tokens: int = 0


def already_ready(runs_on: str) -> Future[str]:
    """Returns a completed `ready` future, for engines that can compute as soon as they are
    constructed.
    """
    ready: Future[str] = Future()
    ready.set_result(runs_on)
    return ready


class Engine(Protocol):
    """An engine that trains and samples LoRA adapters over shared, frozen base models.

    `model_id` identifies a model in training, `sampler_id` loaded sampler weights. Unknown ids,
    unknown losses and invalid inputs raise `InvalidRequest`.
    """

    @property
    def base_models(self) -> Sequence[ModelInfo]:
        """The base models; known before the engine is ready."""
        ...

    @property
    def ready(self) -> Future[str]:
        """The future that completes when the engine can compute; earlier calls wait for it.

        Its result tells people the library, the device and the precision, for example "torch on
        cpu, float32". If the engine cannot start, the future, and every call, raises `EngineDied`
        with the reason.
        """
        ...

    def create_model(
        self, model_id: str, base_model: str, lora: LoraShape, optimizer: OptimizerKind = "adamw"
    ) -> Sequence[str]:
        """Creates a model; returns warnings for the user who creates it. Their texts name the base
        model, not the model.
        """
        ...

    def unload_model(self, model_id: str) -> None: ...

    def check_loss(self, loss: CustomLoss) -> None:
        """Raises `InvalidRequest` for a loss that `forward_backward` would refuse for any data."""
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
        """Computes the loss of the data and, if `backward`, adds its gradients to those of the
        model.

        If it raises, the model's gradients are unchanged. A loss or a gradient that is not finite
        raises `InvalidRequest`, which names the datum if it is known.
        """
        ...

    def optim_step(self, model_id: str, settings: OptimizerSettings) -> Mapping[str, float]:
        """Applies the gradients accumulated since the last step and clears them; returns metrics.

        Raises `InvalidRequest` for settings of another optimizer than the model's; nothing is
        changed. Raises it also for gradients whose norm is not finite, and for a step that would
        make a weight or the optimizer's state not finite; weights and state are then unchanged, and
        the gradients are cleared.
        """
        ...

    def save_model(self, model_id: str, folder: Path, *, optimizer: bool) -> None:
        """Writes a peft adapter (adapter_config.json, adapter_model.safetensors) and, if
        `optimizer`, the state of the optimizer.

        The folder must not exist; it is created, and nobody reads it until this method returns.
        Gradients that were not yet applied are not saved. Raises `InvalidRequest` for weights that
        are not finite.
        """
        ...

    def load_model(self, model_id: str, folder: Path, *, optimizer: bool) -> None:
        """Loads the weights in `folder` into the model and, if `optimizer`, the state of the
        optimizer; otherwise resets the optimizer.

        Gradients that were not yet applied are cleared. Raises `InvalidRequest`, with the model
        unchanged, if the weights do not fit the model or are not finite, or if the optimizer's
        state was not saved or belongs to another kind of optimizer.
        """
        ...

    def import_adapter(self, base_model: str, lora: LoraShape, source: Path, folder: Path) -> None:
        """Writes the adapter whose `ADAPTER_FILES` are in `source` to `folder`, in the format of
        `save_model`.

        The adapter may come from another program. Layers of the shape that the adapter lacks have
        no effect until they are trained. Raises `InvalidRequest` if the files hold no adapter of
        this shape for this base model, or one with parts that cannot be kept.
        """
        ...

    def load_sampler(self, sampler_id: str, base_model: str, folder: Path | None) -> None:
        """Makes the adapter in `folder` (None: the base model alone) available for sampling as
        `sampler_id`.

        If the id is in use, the adapter, which must have the same shape, replaces the previous one
        for samples that start later.
        """
        ...

    def unload_sampler(self, sampler_id: str) -> None:
        """Frees the memory of the weights once running samples have ended. Ignores an id that is
        not loaded.
        """
        ...

    def sample(
        self, sampler_id: str, spec: SampleSpec, on_token: OnToken | None = None
    ) -> Future[SampleResult]:
        """Starts sampling and returns at once. Cancelling the future ends the sample.

        Samples use the weights at the time of the call. `on_token` is called on a thread of the
        engine; it is allowed with one sample only.
        """
        ...

    def watch(self, died: Callable[[EngineExit], None]) -> None:
        """Registers a callback that is called, on a thread of the engine, each time the engine
        dies. An engine in the server's own process never calls it.
        """
        ...

    def close(self) -> None:
        """Abandons all running work. No method may be called afterwards."""
        ...

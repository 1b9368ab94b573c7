"""`TorchEngine`: training and sampling by torch, on transformers models with LoRA adapters."""

# torch types some of its methods only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from attrs import define, frozen
from torch import nn

from tinkex_server.engine.interface import (
    CustomLoss,
    EngineExit,
    Example,
    InvalidRequest,
    LoraShape,
    LossResult,
    ModelInfo,
    OnToken,
    OptimizerKind,
    OptimizerSettings,
    SampleResult,
    SampleSpec,
    already_ready,
    unknown_base_model,
)
from tinkex_server.engine.torch import optimizers
from tinkex_server.engine.torch.adapter import Adapter
from tinkex_server.engine.torch.adapter_files import (
    check_fit,
    check_savable,
    read_training_state,
    save_adapter,
)
from tinkex_server.engine.torch.adapter_import import import_adapter_files
from tinkex_server.engine.torch.base_model import LoadedBaseModel
from tinkex_server.engine.torch.batcher import Batcher
from tinkex_server.engine.torch.compute_thread import ComputeThread
from tinkex_server.engine.torch.custom_loss import LossProgram, compile_loss, reduce_metrics
from tinkex_server.engine.torch.finite_checks import check_gradients, check_losses
from tinkex_server.engine.torch.losses import NamedLoss, find_loss
from tinkex_server.engine.torch.safe_steps import SafeSteps
from tinkex_server.engine.torch.sample_request import SampleRequest
from tinkex_server.engine.torch.scoring import micro_batches, target_logprobs, tokens_at_once
from tinkex_server.engine.torch.separate_gradients import (
    Keep,
    SeparateGradients,
    atomic_gradients,
)
from tinkex_server.engine.torch.stopping import StopRule

_TIED = (
    "{base_model} ties its embeddings, and the model trains lm_head (train_unembed). The adapter "
    "is exact, but peft's merge_and_unload would change the input embeddings as well. To merge it, "
    "use python -m tinkex.local.merge, or train with train_unembed=False"
)


@define(eq=False)
class Model:
    """A model in training."""

    base: LoadedBaseModel
    adapter: Adapter
    parameters: dict[str, nn.Parameter]
    optimizer_kind: OptimizerKind
    steps: SafeSteps

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self.steps.optimizer


@frozen(eq=False)
class _Sampler:
    base: LoadedBaseModel
    adapter: Adapter | None


class TorchEngine:
    """The engine for one machine. Its methods may be called from any thread; all of them compute
    on one thread, where training and sampling take turns. See
    `tinkex_server.engine.interface.Engine` for its methods and `LoadedBaseModel.load` for `device`
    and `dtype`.
    """

    def __init__(
        self, models: Sequence[str], device: str | None = None, dtype: str | None = None
    ) -> None:
        self._compute = ComputeThread()
        bases = [
            self._compute.run(partial(LoadedBaseModel.load, model, device, dtype))
            for model in models
        ]
        if any(base.device.type == "cpu" for base in bases):
            self._compute.share_cores()
        self._bases = {base.info.name: base for base in bases}
        self._models: dict[str, Model] = {}
        self._samplers: dict[str, _Sampler] = {}
        self._batchers = {name: Batcher(base, self._compute) for name, base in self._bases.items()}
        self.ready = already_ready(
            " and ".join(sorted({base.runs_on for base in self._bases.values()}))
        )

    @property
    def base_models(self) -> Sequence[ModelInfo]:
        return [base.info for base in self._bases.values()]

    def create_model(
        self, model_id: str, base_model: str, lora: LoraShape, optimizer: OptimizerKind = "adamw"
    ) -> Sequence[str]:
        base = self._base(base_model)
        self._models[model_id] = self._compute.run(lambda: _new_model(base, lora, optimizer))
        return (
            [_TIED.format(base_model=base_model)]
            if lora.train_unembed and base.ties_embeddings
            else []
        )

    def unload_model(self, model_id: str) -> None:
        self._model(model_id)
        del self._models[model_id]

    def check_loss(self, loss: CustomLoss) -> None:
        compile_loss(loss)

    def forward_backward(
        self,
        model_id: str,
        data: Sequence[Example],
        loss_fn: str | CustomLoss,
        config: Mapping[str, float],
        *,
        backward: bool,
    ) -> LossResult:
        return self._compute_losses(model_id, data, loss_fn, config, backward=backward)

    def optim_step(self, model_id: str, settings: OptimizerSettings) -> Mapping[str, float]:
        model = self._model(model_id)
        if settings.kind != model.optimizer_kind:
            raise InvalidRequest(
                f"the model was created with the optimizer {model.optimizer_kind}, but this "
                f"step has settings for {settings.kind}"
            )
        norm = self._compute.run(lambda: self._step(model, settings))
        return {"grad_norm": norm, "learning_rate": settings.learning_rate}

    def save_model(self, model_id: str, folder: Path, *, optimizer: bool) -> None:
        model = self._model(model_id)
        state = (
            optimizers.state_of(model.optimizer_kind, model.optimizer, model.parameters)
            if optimizer
            else None
        )
        self._compute.run(lambda: check_savable(model.adapter, state))
        # not there, so that samples do not wait for the disk
        save_adapter(model.adapter, folder, model.base.adapted_model, state)

    def load_model(self, model_id: str, folder: Path, *, optimizer: bool) -> None:
        model = self._model(model_id)
        self._compute.run(lambda: _load(model, folder, optimizer=optimizer))

    def import_adapter(self, base_model: str, lora: LoraShape, source: Path, folder: Path) -> None:
        base = self._base(base_model)
        adapter = self._compute.run(lambda: _imported(base, source, lora))
        save_adapter(adapter, folder, base.adapted_model)

    def load_sampler(self, sampler_id: str, base_model: str, folder: Path | None) -> None:
        base, known = self._base(base_model), self._samplers.get(sampler_id)
        like = known.adapter if known else None
        adapter = (
            self._compute.run(lambda: base.load_adapter(folder, like=like)) if folder else None
        )
        # running samples keep the previous adapter
        self._samplers[sampler_id] = _Sampler(base, adapter)

    def unload_sampler(self, sampler_id: str) -> None:
        self._samplers.pop(sampler_id, None)

    def sample(
        self, sampler_id: str, spec: SampleSpec, on_token: OnToken | None = None
    ) -> Future[SampleResult]:
        try:
            sampler = self._sampler(sampler_id)
            room = _check_prompt(spec, sampler.base.info)
        except InvalidRequest as error:
            refused: Future[SampleResult] = Future()
            refused.set_exception(error)
            return refused
        stops = StopRule(spec, sampler.base.end_of_text, sampler.base.tokenizer.decode)
        request = SampleRequest(sampler.adapter, spec, room, stops, on_token)
        self._batchers[sampler.base.info.name].submit(request)
        return request.future

    def watch(self, died: Callable[[EngineExit], None]) -> None:
        """Does nothing, since this engine lives in the caller's process."""

    def close(self) -> None:
        for batcher in self._batchers.values():
            batcher.close()
        self._compute.close()

    def _compute_losses(
        self,
        model_id: str,
        data: Sequence[Example],
        loss_fn: str | CustomLoss,
        config: Mapping[str, float],
        *,
        backward: bool,
        first: int = 0,
        keep: Keep = SeparateGradients.add,
    ) -> LossResult:
        """Computes losses as `forward_backward` does. Errors name the data by their indices, of
        which the first is `first`.
        """
        model = self._model(model_id)
        loss = (
            compile_loss(loss_fn) if isinstance(loss_fn, CustomLoss) else find_loss(loss_fn, config)
        )
        for index, example in enumerate(data, first):
            _check_example(index, example, loss, model.base.info)
        return self._compute.run_in_turns(
            _losses(model, data, loss, backward=backward, first=first, keep=keep)
        )

    def _step(self, model: Model, settings: OptimizerSettings) -> float:
        """Applies the gradients, and drops them in any case; returns their norm."""
        try:
            norm = nn.utils.get_total_norm(
                [weight.grad for weight in model.parameters.values() if weight.grad is not None]
            )
            if not torch.isfinite(norm):
                raise InvalidRequest(
                    f"the norm of the gradients is {norm.item()}: the gradients accumulated since "
                    "the last step are too large for a float. They were dropped, and the weights "
                    "and the optimizer's state are unchanged"
                )
            if settings.grad_clip_norm > 0:
                nn.utils.clip_grads_with_norm_(
                    model.parameters.values(), settings.grad_clip_norm, norm
                )
            model.steps.take(settings, float(norm))
            return float(norm)
        finally:
            model.optimizer.zero_grad()

    def _base(self, name: str) -> LoadedBaseModel:
        if name not in self._bases:
            raise unknown_base_model(name, self._bases)
        return self._bases[name]

    def _sampler(self, sampler_id: str) -> _Sampler:
        sampler = self._samplers.get(sampler_id)
        if sampler is None:
            raise InvalidRequest(f"unknown sampler {sampler_id!r}")
        return sampler

    def _model(self, model_id: str) -> Model:
        if model_id not in self._models:
            raise InvalidRequest(f"unknown model {model_id!r}")
        return self._models[model_id]


def _imported(base: LoadedBaseModel, source: Path, lora: LoraShape) -> Adapter:
    """Returns an adapter that another program wrote, once it is known that it can be saved."""
    adapter = import_adapter_files(source, base.new_adapter(lora))
    check_savable(adapter, None)
    return adapter


def _new_model(base: LoadedBaseModel, lora: LoraShape, kind: OptimizerKind) -> Model:
    adapter = base.new_adapter(lora)
    parameters = cast("dict[str, nn.Parameter]", adapter.named_weights())
    steps = SafeSteps(optimizers.create_optimizer(kind, parameters, {}))
    return Model(base, adapter, parameters, kind, steps)


def _losses(
    model: Model,
    data: Sequence[Example],
    loss: NamedLoss | LossProgram,
    *,
    backward: bool,
    first: int,
    keep: Keep,
) -> Generator[None, None, LossResult]:
    """Computes the losses of all data and, with `backward`, keeps their gradients, or none if one
    fails. Others have their turn at every `yield`.
    """
    outputs: list[Mapping[str, Any]] = [{}] * len(data)
    metrics: list[Mapping[str, float]] = []
    total = 0.0
    most = tokens_at_once(model.base.info.vocab_size, model.base.device)
    batches = micro_batches([len(example.tokens) for example in data], most)
    with atomic_gradients(model.parameters.values(), keep):
        for place, indices in enumerate(batches):
            if place:
                yield
            named = [first + i for i in indices]
            with torch.set_grad_enabled(backward), model.base.acquire(model.adapter) as network:
                logprobs = target_logprobs(network, [data[i] for i in indices])
                leaves = [row.detach().requires_grad_(backward) for row in logprobs]
                results = [
                    loss(row, first + i, data[i]) for i, row in zip(indices, leaves, strict=True)
                ]
                losses = [values for values, _ in results]
                gradients = (
                    torch.autograd.grad([values.sum() for values in losses], leaves)
                    if backward
                    else ()
                )
                total += check_losses(named, losses, gradients)
                if backward:
                    torch.autograd.backward(logprobs, gradients)
                    check_gradients(model.parameters.values(), named)
            metrics += [named for _, named in results]
            for i, row in zip(indices, logprobs, strict=True):
                outputs[i] = {"logprobs": row.detach().cpu().numpy()}
    tokens = float(sum(len(example.tokens) for example in data))
    return LossResult(outputs, {"loss:sum": total, "tokens:sum": tokens, **reduce_metrics(metrics)})


def _load(model: Model, folder: Path, *, optimizer: bool) -> None:
    weights, state = read_training_state(folder, optimizer=optimizer)
    check_fit(weights, model.parameters)
    # it may raise, so it comes before any change
    restored = optimizers.create_optimizer(model.optimizer_kind, model.parameters, state)
    model.adapter.copy_weights(weights)
    model.steps = SafeSteps(restored)
    model.optimizer.zero_grad()


def _check_prompt(spec: SampleSpec, base: ModelInfo) -> int:
    """Returns the number of tokens that may be sampled. Raises `InvalidRequest` for an invalid
    prompt.
    """
    _check_tokens("prompt", np.asarray(spec.prompt), base.vocab_size)
    room = base.max_context_length - len(spec.prompt)
    if not spec.prompt or room < 1:
        raise InvalidRequest(
            f"the prompt has {len(spec.prompt)} tokens; "
            f"{_possible(base, base.max_context_length - 1)}"
        )
    if spec.temperature < 0 or not 0 < spec.top_p <= 1:
        raise InvalidRequest(
            f"temperature is {spec.temperature} and top_p {spec.top_p}; temperature must "
            "be 0 or more, and top_p above 0 and at most 1"
        )
    return room if spec.max_tokens is None else min(room, spec.max_tokens)


def _check_example(
    index: int, example: Example, loss: NamedLoss | LossProgram, base: ModelInfo
) -> None:
    length = len(example.tokens)
    if not 1 <= length <= base.max_context_length:
        raise InvalidRequest(
            f"data[{index}] has {length} tokens; {_possible(base, base.max_context_length)}"
        )
    _check_tokens(f"data[{index}].model_input", example.tokens, base.vocab_size)
    loss.check(index, example)
    for name, value in example.loss_inputs.items():
        if not np.isfinite(value).all():
            raise InvalidRequest(f"data[{index}].loss_fn_inputs[{name!r}] contains NaN or infinity")
    targets = example.loss_inputs["target_tokens"]
    if targets.ndim not in (1, 2) or len(targets) != length or not targets.size:
        shape = list(targets.shape)
        raise InvalidRequest(
            f"data[{index}].loss_fn_inputs['target_tokens'] has the shape {shape}; "
            f"expected [{length}] or [{length}, K]"
        )
    _check_tokens(f"data[{index}].target_tokens", targets.ravel(), base.vocab_size)


def _possible(base: ModelInfo, most: int) -> str:
    return f"it must have 1 to {most}" + (f": {base.context_note}" if base.context_note else "")


def _check_tokens(where: str, tokens: np.typing.NDArray[Any], vocab_size: int) -> None:
    wrong = np.flatnonzero((tokens < 0) | (tokens >= vocab_size))
    if len(wrong):
        raise InvalidRequest(
            f"{where}[{wrong[0]}] is {tokens[wrong[0]]}; token ids of this model are 0 to "
            f"{vocab_size - 1}"
        )

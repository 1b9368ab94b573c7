"""Loaded base models, whose linear layers and experts can take adapters: the only module that loads
models by transformers, which has few types.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from attrs import define
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.utils import logging

from tinkex_server.engine.interface import InvalidRequest, LoraShape, ModelInfo
from tinkex_server.engine.model_info import describe, loadable_name
from tinkex_server.engine.torch.adapter import Adapter, LayerWeights
from tinkex_server.engine.torch.adapter_files import AdaptedModel, check_fit, read_adapter
from tinkex_server.engine.torch.experts import ExpertLayer, expert_layers, wrap_experts
from tinkex_server.engine.torch.kv_cache import CacheLayout
from tinkex_server.engine.torch.load_check import (
    ReferenceLogprobs,
    check_adapters,
    check_logprobs,
    reference_logprobs,
    refusal,
)
from tinkex_server.engine.torch.lora import LoraLinear, new_adapter, wrap_linears
from tinkex_server.engine.torch.lora_targets import choose_layers
from tinkex_server.engine.torch.mixed_adapters import AdapterPlan, CurrentPlan

logging.disable_progress_bar()

_ALPHA = 32  # lora_alpha of all adapters, for any rank
_EXPERT = re.compile(r"\.experts\.\*\.(\w+)\.weight$")
_SWITCHES = ("train_attn", "train_mlp", "train_unembed")
_EFFECT = 0.003  # of the weights of a test adapter, whose effect is far above rounding
_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@define(eq=False)
class LoadedBaseModel:
    """One frozen base model. Adapters are kept apart from it; each forward pass names those that it
    uses. It must be used on one thread.
    """

    info: ModelInfo
    model: Any
    tokenizer: Any
    layers: Mapping[str, LoraLinear | ExpertLayer]
    """All layers that can take adapters, by name."""
    end_of_text: frozenset[int]
    """The tokens that end a sample if no stop is given."""
    layout: CacheLayout
    bytes_per_token: int
    """The size of the KV cache for one token, over all layers."""
    bytes_per_row: int
    """The size of the states of recurrent layers for one sample."""
    _source: str  # the name or folder that transformers loads it from
    _current: CurrentPlan

    @classmethod
    def load(
        cls, spec: str, device: str | None = None, dtype: str | None = None
    ) -> LoadedBaseModel:
        """Loads a model by folder, shipped name or hub id, or by `NAME=` and one of these.

        `device` is "cpu", "cuda" or "mps", by default the best available; `dtype` is "float32" or
        "bfloat16", by default the one that suits the device. Raises `InvalidRequest` if the model
        cannot be loaded, or not be served exactly.
        """
        info, source = describe(spec), loadable_name(spec)
        place = device_of(device)
        precision = _dtype(dtype, place)
        try:
            # only safetensors: unpickling would run foreign code
            loaded = AutoModelForCausalLM.from_pretrained(
                source, dtype=precision, use_safetensors=True
            )
            tokenizer = AutoTokenizer.from_pretrained(source)
            model: Any = loaded.eval().requires_grad_(False)
            model.to(place)
            layout = _layout(model, info)
            found = reference_logprobs(model, info)
            current = CurrentPlan()
            experts = expert_layers(model)
            linears = wrap_linears(model, _text_modules(model), current)
            wrap_experts(experts, current)
            layout, bytes_per_token, bytes_per_row = check_logprobs(model, layout, info, found)
            base = cls(
                info,
                model,
                tokenizer,
                {**linears, **experts},
                ends(model, tokenizer),
                layout,
                bytes_per_token,
                bytes_per_row,
                source,
                current,
            )
            base._check_adapters(found)
            return base
        except InvalidRequest:
            raise
        except (
            OSError,
            ValueError,
            RuntimeError,
            SafetensorError,
        ) as error:  # a RuntimeError: out of memory, or weights that do not fit
            raise InvalidRequest(f"cannot load the model {spec!r}: {error}") from error

    def _check_adapters(self, found: ReferenceLogprobs) -> None:
        """Raises `InvalidRequest` if several adapters in one batch do not work."""
        possible = [switch for switch in _SWITCHES if self._trains(switch)]
        if not possible:
            return
        shape = LoraShape(1, seed=0, **{switch: switch in possible for switch in _SWITCHES})
        adapter = self.new_adapter(shape)
        with torch.no_grad():
            for pair in adapter.layers.values():
                pair.b.normal_(0, _EFFECT, generator=torch.Generator(self.device).manual_seed(0))
        sampled = Adapter(adapter.rank, adapter.alpha, self._placed(adapter))
        check_adapters(self.model, self.acquire, self.info, found, sampled)

    def _trains(self, switch: str) -> bool:
        try:
            self.new_adapter(LoraShape(1, **{one: one == switch for one in _SWITCHES}))
        except InvalidRequest:
            return False
        return True

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def adapted_model(self) -> AdaptedModel:
        """The description of this model that is saved with its adapters."""
        modules = [name for name, _ in self.model.named_modules()]
        head = self.model.get_output_embeddings() if self.ties_embeddings else None
        return AdaptedModel(
            self._source,
            modules,
            _expert_names(self.model.config.model_type),
            {
                name: layer.full_name
                for name, layer in self.layers.items()
                if isinstance(layer, ExpertLayer)
            },
            next((name for name, layer in self.layers.items() if layer is head), None),
        )

    @property
    def ties_embeddings(self) -> bool:
        """Whether input embeddings and output layer share one matrix."""
        head = self.model.get_output_embeddings()
        return head is not None and head.weight is self.model.get_input_embeddings().weight

    @property
    def runs_on(self) -> str:
        return f"torch on {self.device}, {str(self.model.dtype).removeprefix('torch.')}"

    @contextmanager
    def acquire(self, plan: AdapterPlan) -> Generator[Any, None, None]:
        """Gives these adapters to the model for one computation."""
        self._current.plan = plan
        try:
            yield self.model
        finally:
            self._current.plan = None

    def product_size(self, tokens: int, context: int) -> float:
        """Returns the multiplications of one matrix product, at the mean, in a forward pass over so
        many tokens, of which each reads the keys and values of `context` tokens.
        """
        cached = self.bytes_per_token / self.model.dtype.itemsize
        return tokens * (self._mean_weights + context * cached / max(1, len(self.layers)))

    @cached_property
    def _mean_weights(self) -> float:
        """The number of weights of one layer, at the mean; of experts, those of one."""
        shapes = [layer.shape for layer in self.layers.values()]
        return sum(one.inputs * one.outputs for one in shapes) / max(1, len(shapes))

    def new_adapter(self, shape: LoraShape) -> Adapter:
        """Returns a trainable adapter in float32. Raises `InvalidRequest` for a shape that this
        model cannot be trained with.
        """
        layers = choose_layers(self.model, _text_modules(self.model), self.layers, shape)
        return new_adapter(layers, shape.rank, _ALPHA, shape.seed)

    def load_adapter(self, folder: Path, *, like: Adapter | None = None) -> Adapter:
        """Returns a saved adapter for sampling, in the model's own precision. Raises
        `InvalidRequest` if its shape differs from that of `like`.
        """
        saved = read_adapter(folder)
        if like:
            check_fit(saved.named_weights(), like.named_weights())
        return Adapter(saved.rank, saved.alpha, self._placed(saved))

    def _placed(self, adapter: Adapter) -> dict[str, LayerWeights]:
        """Returns copies of an adapter's weights for sampling; the file that is mapped to it may be
        deleted.
        """

        def placed(weight: Tensor) -> Tensor:
            return weight.detach().to(self.device, self.model.dtype, copy=True)

        return {name: LayerWeights(*map(placed, pair)) for name, pair in adapter.layers.items()}


def _layout(model: Any, info: ModelInfo) -> CacheLayout:
    try:
        return CacheLayout.of(model)
    except InvalidRequest as error:
        raise refusal(info, str(error)) from error


def ends(model: Any, tokenizer: Any) -> frozenset[int]:
    """Returns all tokens that any of the model's files calls the end of a text.

    The files differ: for a chat model the tokenizer names the end of a turn, and config.json often
    only the end of a document.
    """
    text = model.config.get_text_config(decoder=True)
    named = (model.generation_config, model.config, text, tokenizer)
    ids = [getattr(where, "eos_token_id", None) for where in named]
    flat = [one for found in ids for one in (found if isinstance(found, list) else [found])]
    return frozenset(one for one in flat if isinstance(one, int) and 0 <= one < text.vocab_size)


def _text_modules(model: Any) -> set[nn.Module]:
    """Returns the modules that process text; a model may have others for images and sounds."""
    if model.config.get_text_config(decoder=True) is model.config:
        return set(model.modules())
    return {*model.get_decoder().modules(), model.get_output_embeddings()}


def _expert_names(kind: str) -> frozenset[str]:
    """Returns the names that the experts' layers had before transformers merged them into one
    tensor.
    """
    merged = [
        pattern
        for conversion in get_checkpoint_conversion_mapping(kind) or []
        for pattern in conversion.source_patterns
    ]
    return frozenset(found[1] for found in map(_EXPERT.search, merged) if found)


def device_of(asked: str | None) -> str:
    """Returns the device that is asked for, or else the best that this machine has. Raises
    `InvalidRequest` if it lacks that.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if asked is None:
        return next(name for name, available in there.items() if available)
    if not there.get(asked):
        raise InvalidRequest(
            f"this machine has no device {asked!r}; it has "
            f"{', '.join(name for name in there if there[name])}"
        )
    return asked


def _dtype(asked: str | None, device: str) -> torch.dtype:
    if asked is None:
        return (
            torch.bfloat16 if device == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
        )
    if asked not in _DTYPES:
        raise InvalidRequest(f"unknown dtype {asked!r}; it must be one of {', '.join(_DTYPES)}")
    return _DTYPES[asked]

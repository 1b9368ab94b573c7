"""Base models, with layers that adapters can be put on: the one place that loads by transformers,
which ships few types.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from attrs import define, field
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.utils import logging

from tinkex_server.engine.interface import InvalidRequest, LoraShape, ModelInfo
from tinkex_server.engine.model_info import describe, loadable_name
from tinkex_server.engine.torch.adapter_files import AdaptedModel, check_fit, read_adapter
from tinkex_server.engine.torch.fair_lock import FairLock
from tinkex_server.engine.torch.load_check import check_logprobs, reference_logprobs
from tinkex_server.engine.torch.lora import (
    Adapter,
    AdapterPlan,
    CurrentPlan,
    LayerWeights,
    LoraLinear,
    new_adapter,
    wrap_linears,
)
from tinkex_server.engine.torch.lora_targets import choose_layers

logging.disable_progress_bar()

_ALPHA = 32  # of all adapters, whatever their rank
_EXPERT = re.compile(r"\.experts\.\*\.(\w+)\.weight$")
_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@define(eq=False)
class LoadedBaseModel:
    """One frozen base model. Adapters are apart from it; a forward pass names those that it is to
    use.
    """

    info: ModelInfo
    model: Any
    tokenizer: Any
    linears: Mapping[str, LoraLinear]
    end_of_text: frozenset[int]
    """The tokens that end a sample where no stop is given."""
    bytes_per_token: int
    """How much is kept of each token that was read, in all layers."""
    _source: str  # what transformers loads it by
    _current: CurrentPlan
    _lock: FairLock = field(factory=FairLock)

    @classmethod
    def load(
        cls, spec: str, device: str | None = None, dtype: str | None = None
    ) -> LoadedBaseModel:
        """By folder, shipped name or hub id, or `NAME=` and one of these. Raises `InvalidRequest`
        when it cannot be loaded, or served exactly.

        `device` is "cpu", "cuda" or "mps", by default the best that is there; `dtype` is "float32"
        or "bfloat16", by default what suits the device.
        """
        info, source = describe(spec), loadable_name(spec)
        place = _device(device)
        precision = _dtype(dtype, place)
        try:
            # never a pickle
            loaded = AutoModelForCausalLM.from_pretrained(
                source, dtype=precision, use_safetensors=True
            )
            tokenizer = AutoTokenizer.from_pretrained(source)
            model: Any = loaded.eval().requires_grad_(False)
            model.to(place)
            found = reference_logprobs(model, info)
            current = CurrentPlan()
            linears = wrap_linears(model, _text_modules(model), current)
            bytes_per_token = check_logprobs(model, info, found)
            return cls(
                info,
                model,
                tokenizer,
                linears,
                ends(model, tokenizer),
                bytes_per_token,
                source,
                current,
            )
        except InvalidRequest:
            raise
        except (
            OSError,
            ValueError,
            RuntimeError,
            SafetensorError,
        ) as error:  # a RuntimeError: torch is out of memory, or weights do not fit
            raise InvalidRequest(f"cannot load the model {spec!r}: {error}") from error

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def adapted_model(self) -> AdaptedModel:
        """What the files of its adapters say of it."""
        modules = [name for name, _ in self.model.named_modules()]
        head = self.model.get_output_embeddings() if self.ties_embeddings else None
        return AdaptedModel(
            self._source,
            modules,
            _expert_names(self.model.config.model_type),
            next((name for name, layer in self.linears.items() if layer is head), None),
        )

    @property
    def ties_embeddings(self) -> bool:
        """Whether one matrix reads the tokens and makes the logits."""
        head = self.model.get_output_embeddings()
        return head is not None and head.weight is self.model.get_input_embeddings().weight

    @property
    def runs_on(self) -> str:
        return f"torch on {self.device}, {str(self.model.dtype).removeprefix('torch.')}"

    @contextmanager
    def acquire(self, plan: AdapterPlan) -> Generator[Any, None, None]:
        """The model, for one short piece of work with these adapters: whoever wants it meanwhile
        waits for its turn.
        """
        with self._lock:
            self._current.plan = plan
            try:
                yield self.model
            finally:
                self._current.plan = ()

    def new_adapter(self, shape: LoraShape) -> Adapter:
        """One to be trained, in float32. Raises `InvalidRequest` for a shape that the model cannot
        be trained in.
        """
        layers = choose_layers(self.model, _text_modules(self.model), self.linears, shape)
        return new_adapter(layers, shape.rank, _ALPHA, shape.seed)

    def load_adapter(self, folder: Path, *, like: Adapter | None = None) -> Adapter:
        """A saved one to sample with, in the model's own precision. Raises `InvalidRequest` when it
        is not of the shape of `like`.
        """
        saved = read_adapter(folder)
        if like:
            check_fit(saved.named_weights(), like.named_weights())

        def placed(weight: Tensor) -> Tensor:
            # the file is mapped: it may go away
            return weight.to(self.device, self.model.dtype, copy=True)

        return Adapter(
            saved.rank,
            saved.alpha,
            {name: LayerWeights(*map(placed, pair)) for name, pair in saved.layers.items()},
        )


def ends(model: Any, tokenizer: Any) -> frozenset[int]:
    """Returns all tokens that one of the model's files calls the end of a text.

    Files differ: of a chat model the tokenizer names the end of a turn, and config.json often that
    of a document alone.
    """
    text = model.config.get_text_config(decoder=True)
    named = (model.generation_config, model.config, text, tokenizer)
    ids = [getattr(where, "eos_token_id", None) for where in named]
    flat = [one for found in ids for one in (found if isinstance(found, list) else [found])]
    return frozenset(one for one in flat if isinstance(one, int) and 0 <= one < text.vocab_size)


def _text_modules(model: Any) -> set[nn.Module]:
    """The modules that text goes through: of a model for images and sounds, too, not those that
    they go through.
    """
    if model.config.get_text_config(decoder=True) is model.config:
        return set(model.modules())
    return {*model.get_decoder().modules(), model.get_output_embeddings()}


def _expert_names(kind: str) -> frozenset[str]:
    """Returns the names that each expert's layers had before transformers made one tensor of all of
    a kind's experts.
    """
    merged = [
        pattern
        for conversion in get_checkpoint_conversion_mapping(kind) or []
        for pattern in conversion.source_patterns
    ]
    return frozenset(found[1] for found in map(_EXPERT.search, merged) if found)


def _device(asked: str | None) -> str:
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if asked is None:
        return next(name for name, available in there.items() if available)
    if not there.get(asked):
        raise InvalidRequest(
            f"there is no device {asked!r} here; there is "
            f"{', '.join(name for name in there if there[name])}"
        )
    return asked


def _dtype(asked: str | None, device: str) -> torch.dtype:
    if asked is None:
        return (
            torch.bfloat16 if device == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
        )
    if asked not in _DTYPES:
        raise InvalidRequest(f"unknown dtype {asked!r}; known are {', '.join(_DTYPES)}")
    return _DTYPES[asked]

"""Base models and the LoRA adapters over them: the one place that touches transformers and peft, which ship few types."""

# Those two libraries ship few types, so what comes from them is unknown to the checker.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportUnknownLambdaType=false, reportPrivateImportUsage=false

from __future__ import annotations

import os
import tempfile
import threading
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from attrs import define, field
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from tinkex.local.engine.base import BaseModel, InvalidRequest, LoraShape

# peft asks transformers for it at each new adapter, and nobody who serves a model can mend that
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
logging.disable_progress_bar()

_ALPHA = 32  # of all adapters, whatever their rank
_ATTN = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")
_UNEMBED = ("lm_head",)
_SHIPPED = {"tinkex/tiny": Path(__file__).parents[2] / "tiny"}
_IDLE = "idle"  # an adapter that nobody uses, since peft wants one from the start
_WEIGHTS_FILE = "adapter_model.safetensors"  # peft's name for it
_OPTIMIZER_FILE = "optimizer.safetensors"


@define(eq=False)
class Base:
    """One frozen base model and the adapters over it. Whoever uses the model holds `lock`: it has one active adapter at a time."""

    name: str
    model: Any
    tokenizer: Any
    layers: frozenset[str]
    """The names of its linear layers, which adapters can be put on."""
    tokenizer_json: str | None
    lock: threading.RLock = field(factory=threading.RLock)
    _adapters: int = 0

    @classmethod
    def load(cls, name: str) -> Base:
        """By folder, shipped name or hub id. Raises `InvalidRequest` when it cannot be loaded."""
        source = str(_SHIPPED.get(name, name))
        if (Path(source).is_absolute() or source.startswith(".")) and not Path(source).is_dir():
            raise InvalidRequest(f"there is no folder {source}")
        try:
            model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise InvalidRequest(f"cannot load the model {name!r}: {error}") from error
        layers = frozenset(n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, nn.Linear))
        idle = _lora_config(layers, LoraShape(rank=1))
        peft_model = PeftModel(model.eval().requires_grad_(False), idle, adapter_name=_IDLE)
        backend = getattr(tokenizer, "backend_tokenizer", None)  # some are written in Python and have none
        return cls(name, peft_model.to(_device()), tokenizer, layers, backend.to_str() if backend is not None else None)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def end_of_text(self) -> frozenset[int]:
        ids = self.model.generation_config.eos_token_id
        return frozenset() if ids is None else frozenset([ids] if isinstance(ids, int) else ids)

    def describe(self) -> BaseModel:
        config = self.model.config
        return BaseModel(
            name=self.name,
            max_context_length=config.max_position_embeddings,
            vocab_size=config.vocab_size,
            arch=config.architectures[0],
            tokenizer_id=self.name,
            tokenizer_json=self.tokenizer_json,
        )

    def add_adapter(self, shape: LoraShape) -> str:
        """A new adapter, which changes nothing until it is trained; returns its name."""
        with self.lock, torch.random.fork_rng():
            if shape.seed is None:
                torch.seed()
            else:
                torch.manual_seed(shape.seed)
            name = self._new_name()
            self.model.add_adapter(name, _lora_config(self.layers, shape))
        return name

    def _new_name(self) -> str:
        """To be called with the lock held."""
        self._adapters += 1
        return f"adapter{self._adapters}"

    def remove_adapter(self, name: str) -> None:
        with self.lock:
            self.model.set_adapter(_IDLE)
            self.model.delete_adapter(name)

    def parameters(self, adapter: str) -> dict[str, nn.Parameter]:
        """By names that are the same for every adapter of the same shape, in the same order."""
        part = f".{adapter}."
        return {name.replace(part, "."): value for name, value in self.model.named_parameters() if part in name}

    @contextmanager
    def active(self, adapter: str | None) -> Generator[Any, None, None]:
        """The model with this adapter alone, or with none."""
        with self.lock:
            if adapter is None:
                with self.model.disable_adapter():
                    yield self.model
            else:
                self.model.set_adapter(adapter)
                yield self.model

    def save_adapter(self, adapter: str, folder: Path, optimizer_state: Mapping[str, Tensor] | None = None) -> None:
        """As peft reads it, with the optimizer's state in a file of its own. The folder appears whole or not at all."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".draft-") as place:
            draft = Path(place, "new")
            with self.lock:
                self.model.peft_config[adapter].save_pretrained(draft)
                _write(self._weights(adapter), draft / _WEIGHTS_FILE)
                if optimizer_state is not None:
                    _write(optimizer_state, draft / _OPTIMIZER_FILE)
            _flush(draft)
            with self.lock:  # so that nobody reads one file of the old folder and one of the new
                _put_in_place(draft, folder, Path(place, "old"))

    def read_training_state(self, adapter: str, folder: Path, *, optimizer: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The saved weights, and the optimizer's state (empty unless `optimizer`). Changes nothing.

        Raises `InvalidRequest` when the adapter cannot take the weights, or when the optimizer's state was not saved.
        """
        with self.lock:
            if not (folder / _WEIGHTS_FILE).is_file():
                raise InvalidRequest("the saved weights were deleted")
            weights = load_file(folder / _WEIGHTS_FILE)
            _check_fit(weights, self._weights(adapter))
            if not optimizer:
                return weights, {}
            if not (folder / _OPTIMIZER_FILE).is_file():
                raise InvalidRequest("the weights were saved without the optimizer's state; load them without it")
            return weights, load_file(folder / _OPTIMIZER_FILE)

    def set_weights(self, adapter: str, weights: Mapping[str, Tensor]) -> None:
        """Into the adapter's own parameters, which stay the same objects."""
        with self.lock:
            set_peft_model_state_dict(self.model, dict(weights), adapter_name=adapter)

    def _weights(self, adapter: str) -> dict[str, Tensor]:
        return get_peft_model_state_dict(self.model, adapter_name=adapter, save_embedding_layers=False)

    def replace_adapter(self, adapter: str, folder: Path) -> None:
        """Gives an adapter the saved weights of one of the same shape."""
        with self.lock:
            weights = load_file(folder / _WEIGHTS_FILE)
            _check_fit(weights, self._weights(adapter))
            self.set_weights(adapter, weights)

    def load_adapter(self, folder: Path) -> str:
        """A saved adapter under a new name, for sampling."""
        with self.lock:
            config = LoraConfig.from_pretrained(str(folder))
            name = self._new_name()
            config.inference_mode = True
            self.model.add_adapter(name, config)
            set_peft_model_state_dict(self.model, load_file(folder / _WEIGHTS_FILE), adapter_name=name)
        return name


def _lora_config(layers: frozenset[str], shape: LoraShape) -> LoraConfig:
    wanted = [*_ATTN * shape.train_attn, *_MLP * shape.train_mlp, *_UNEMBED * shape.train_unembed]
    targets = [name for name in wanted if name in layers]
    if not targets:
        raise InvalidRequest(f"none of the layers {wanted} is in the model, which has {sorted(layers)}")
    return LoraConfig(r=shape.rank, lora_alpha=_ALPHA, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM")


def _device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _check_fit(saved: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raises `InvalidRequest`, naming the first weight that is not as in the model."""
    for name in sorted(saved.keys() | wanted.keys()):
        if name not in saved:
            raise InvalidRequest(f"the saved weights lack {name}, which the model trains")
        if name not in wanted:
            raise InvalidRequest(f"the saved weights have {name}, which the model does not train")
        if saved[name].shape != wanted[name].shape:
            raise InvalidRequest(f"{name} was saved as {list(saved[name].shape)}, and is {list(wanted[name].shape)} in the model")


def _write(tensors: Mapping[str, Tensor], file: Path) -> None:
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, file)


def _put_in_place(draft: Path, folder: Path, aside: Path) -> None:
    """Renames, so that `folder` is never half written; what it was before goes to `aside`, and comes back if this fails.

    A machine that stops just between the two renames leaves the old one in `aside`, and none in its place.
    """
    if not folder.exists():
        draft.rename(folder)
        return
    folder.rename(aside)
    try:
        draft.rename(folder)
    except OSError:
        aside.rename(folder)
        raise


def _flush(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())

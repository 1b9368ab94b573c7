"""`merge`: merges an adapter into its base model; on the command line, `python -m
tinkex.local.merge --help`.

peft's own merge is wrong for a model with tied embeddings and an adapter on `lm_head`: both layers
share one matrix, so the change of the output layer would also change the input. This function gives
the output layer a matrix of its own.
"""

# torch and transformers type some of their functions only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from tinkex_server.engine.interface import InvalidRequest
from tinkex_server.engine.model_info import loadable_name
from tinkex_server.engine.torch.adapter_files import base_model_of, read_adapter
from tinkex_server.engine.torch.experts import expert_layers


@torch.no_grad()
def merge(adapter: Path, output: Path, base_model: str | None = None) -> None:
    """Saves the merged model, with its tokenizer, in the folder `output`.

    `base_model` is a hub id or a folder, by default the one that the adapter names. The weights
    keep the base model's precision. Raises `InvalidRequest` if there is no such adapter, or it
    names no base model.
    """
    saved = read_adapter(adapter)
    name = base_model or base_model_of(adapter)
    if name is None:
        raise InvalidRequest(
            f"the adapter in {adapter} does not name its base model: pass the base model"
        )
    source = loadable_name(name)
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype="auto", use_safetensors=True)
    experts = expert_layers(model)
    for layer_name, weights in saved.layers.items():
        if layer_name in experts:
            _add(experts[layer_name].weight, saved.scaling * experts[layer_name].change(weights))
            continue
        layer = model.get_submodule(layer_name)
        if layer is model.get_output_embeddings():
            _untie(model)
        _add(layer.weight, saved.scaling * (weights.b.float() @ weights.a.float()))
    model.save_pretrained(output)
    AutoTokenizer.from_pretrained(source).save_pretrained(output)


def _add(weight: Tensor, change: Tensor) -> None:
    weight.copy_((weight.float() + change).to(weight.dtype))


def _untie(model: Any) -> None:
    """Gives the output layer a copy of the matrix that it shares with the input embeddings, if it
    does.
    """
    head = model.get_output_embeddings()
    if head.weight is not model.get_input_embeddings().weight:
        return
    head.weight = nn.Parameter(head.weight.clone(), requires_grad=False)
    for config in {
        id(config): config for config in (model.config, model.config.get_text_config())
    }.values():
        config.tie_word_embeddings = False


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tinkex.local.merge",
        description="Makes one model of an adapter and its base model.",
    )
    parser.add_argument("adapter", type=Path, help="the folder of a checkpoint that was downloaded")
    parser.add_argument("output", type=Path, help="the folder to write the model to")
    parser.add_argument(
        "--base-model", help="a hub id or a folder; by default the one that the adapter names"
    )
    given = parser.parse_args()
    try:
        merge(given.adapter, given.output, given.base_model)
    except (InvalidRequest, OSError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")

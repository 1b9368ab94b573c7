"""Whether models of a kind are served exactly: found by training, scoring, sampling and saving a
tiny random one.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from attrs import frozen
from numpy.typing import NDArray
from transformers import PreTrainedConfig

from tests.support.model_zoo import kinds, make_model, tiny_config
from tinkex_server.engine.interface import (
    AdamSettings,
    Example,
    InvalidRequest,
    LoraShape,
    SampleResult,
    SampleSpec,
)
from tinkex_server.engine.torch.adapter import Adapter
from tinkex_server.engine.torch.adapter_files import read_adapter
from tinkex_server.engine.torch.base_model import LoadedBaseModel
from tinkex_server.engine.torch.decoding import Batch
from tinkex_server.engine.torch.engine import TorchEngine
from tinkex_server.engine.torch.mixed_adapters import AdapterPlanner
from tinkex_server.engine.torch.prefill import Prefill
from tinkex_server.engine.torch.prefix_cache import PrefixCache
from tinkex_server.engine.torch.sample_request import SampleRequest
from tinkex_server.engine.torch.stopping import StopRule

SWITCHES = ("train_attn", "train_mlp", "train_unembed")
ROWS = (
    (5, 9, 33, 70, 2, 41, 88, 17, 23, 64, 3, 90, 12),
    (7, 50, 21, 99, 34),
    (60, 61, 62, 63, 64, 65, 66, 67, 68),
)
_NEW = 12  # tokens sampled: past the sliding window, and past a buffer's growth
_FEW = 3
_CLOSE = 1e-5
_ROUNDING = 2e-6  # of a logprob's own size: some times what float32 tells apart
_STEPS = 3
_GRADIENTS_CLOSE = 2e-4  # of the largest element


NOT_TRIED: Mapping[str, str] = {
    **dict.fromkeys(
        ("blt", "longcat_flash", "phi4_multimodal"), "its configuration allows no tiny model"
    ),
    **dict.fromkeys(
        ("gemma4_unified", "moss_transcribe_diarize"),
        "its configuration allows no tiny model",
    ),
    **dict.fromkeys(
        ("dots3_note", "gemma4_assistant", "zamba"),
        "its configuration allows no model of two layers",
    ),
    **dict.fromkeys(
        ("emu3", "mllama", "musicgen", "musicgen_melody"),
        "a model cannot be made from its configuration alone",
    ),
    "gemma3n": "it needs the package timm",
}
_PAGE = """# Models

<!-- Made by `make models-doc` from the run of tests/support/model_matrix.py: do not edit. -->

The embedded server serves a model exactly, or refuses it. When it loads a model, the model's own
forward pass in transformers computes the logprobs of a few texts, each alone. The server then
computes them through all of its code paths: training in a batch, prefill in parts, and decoding
token by token. If one of them gives other logprobs, the model is refused, and the error says why;
if config.json already shows it, this happens before torch is loaded.

The tables list one tiny random model of every kind that transformers {release} has as a causal
language model; {served} of {tried} are supported. For each of these, training, scoring and
sampling, alone and in batches, give the logprobs of transformers' own forward pass in float32,
within 0.00001 nats plus 0.000002 of the logprob. Training changes all layers of the adapter, which
then gives the same logprobs in the sampler and in peft. The tests repeat this for each row. With
this release of transformers they fail if a row is no longer true; with other releases, if a model
is neither exact nor refused.

Models with longrope, such as Phi-3.5 and Phi-4-mini, are served up to the context length at which
their position embeddings change, `original_max_position_embeddings`. Beyond it, the logprobs of the
whole text change, so that those from sampling and training would differ.

## Supported

`train_attn` trains all linear layers of the attention, `train_mlp` those of the MLP, and
`train_unembed` the output layer. A switch marked `-` must be false: either the model has no such
linear layers, or some of these layers cannot be trained here, such as experts (MoE).

| kind | class | train_attn | train_mlp | train_unembed |
|---|---|---|---|---|
{exact}

## Refused

Sampling relies on a KV cache, so every layer must use full or sliding-window attention. A model
whose config.json states no context length keeps a recurrent state (Mamba, RWKV, xLSTM), or limits
its texts in another way (BLOOM, Whisper).

| kind | class | reason |
|---|---|---|
{reasons}

## Not tested

These models are checked when they are loaded, like all others.

| kind | why it is not tested |
|---|---|
{not_tried}
"""


@frozen
class Finding:
    """Findings about one kind of model."""

    arch: str
    refusal: str = ""
    """Why it is not served; "": it is, exactly."""
    trains: tuple[str, ...] = ()
    """The switches of a LoRA adapter that it takes."""
    targets: tuple[str, ...] = ()
    """The last names of the layers that they train."""
    notes: str = ""


def find_all() -> dict[str, Finding]:
    """Returns what is found of every kind of which a tiny model can be made. Takes a minute or
    two.
    """
    findings: dict[str, Finding] = {}
    for kind, config in kinds().items():
        if kind not in NOT_TRIED:
            with tempfile.TemporaryDirectory() as folder:
                findings[kind] = find(tiny_config(config), Path(folder))
    return findings


def page(findings: Mapping[str, Finding]) -> str:
    """Returns the text of docs/models.md."""
    served = {kind: found for kind, found in findings.items() if not found.refusal}
    refused = {kind: found for kind, found in findings.items() if found.refusal}
    exact = [
        f"| {kind} | {found.arch} | "
        + " | ".join("yes" if switch in found.trains else "-" for switch in SWITCHES)
        + " |"
        for kind, found in served.items()
    ]
    return _PAGE.format(
        release=transformers.__version__,
        tried=len(findings),
        served=len(served),
        exact="\n".join(exact),
        reasons="\n".join(
            f"| {kind} | {found.arch} | {found.refusal} |" for kind, found in refused.items()
        ),
        not_tried="\n".join(f"| {kind} | {why} |" for kind, why in NOT_TRIED.items()),
    )


def find(config: PreTrainedConfig, folder: Path) -> Finding:
    """Serves a model of this configuration.

    Raises `AssertionError` when it is served and not exact, or is refused in a library's words.
    """
    own: Any = make_model(config, folder)
    arch = type(own).__name__
    try:
        engine = TorchEngine([str(folder)], "cpu", "float32")
    except InvalidRequest as error:
        refusal = str(error)
        assert "not supported" in refusal or "encoder-decoder" in refusal, refusal
        return Finding(arch, without_details(refusal))
    try:
        [base] = engine._bases.values()
        _check_sampling(base, own)
        trains = _check_training(engine, base, own, folder)
        targets = _targets(base, trains)
    finally:
        engine.close()
    return Finding(arch, "", trains, targets, _notes(base, trains, own))


def _targets(base: LoadedBaseModel, trains: Sequence[str]) -> tuple[str, ...]:
    if not trains:
        return ()
    shape = LoraShape(2, **{switch: switch in trains for switch in SWITCHES})
    names = base.adapted_model.expert_tensors
    found = [names.get(name, name).split(".") for name in base.new_adapter(shape).layers]
    short = (".".join(name[-2:] if "experts" in name[-2:] else name[-1:]) for name in found)
    return tuple(dict.fromkeys(short))


def _notes(base: LoadedBaseModel, trains: Sequence[str], own: Any) -> str:
    fused = [name for name, one in own.named_parameters() if one.ndim == 3 and "experts" in name]
    notes = [
        "an adapter for each expert" * bool(fused and "train_mlp" in trains),
        "experts are not trained" * bool(fused and "train_mlp" not in trains),
        "a recurrent state: no prompt reuses the beginning of another" * base.layout.recurrent,
        "prompts are read one by one" * base.layout.alone,
    ]
    return "; ".join(note for note in notes if note)


_DETAILS = re.compile(
    r"^the model '[^']*' (?:\([^)]*\) is not supported: |has )?"
    r"|\. transformers raised .*"
    r"|: they differ by .* nats per token on average"
    r"| \(max_position_embeddings[^)]*\): models that keep .*"
    r"|, which are not supported: every layer .*",
    re.DOTALL,
)


def without_details(refusal: str) -> str:
    """Returns the reason alone: without the folder, what the page says of all such models, the
    library's words, and figures, which differ between releases.
    """
    return _DETAILS.sub("", re.sub(r"^the (config\.json) of the model '[^']*'", r"its \1", refusal))


def _check_sampling(base: LoadedBaseModel, own: Any) -> None:
    together = _sampled(base, ROWS, tokens=10_000)
    apart = [_sampled(base, [row], tokens=4)[0] for row in ROWS]  # and read in several passes
    for results in (together, apart):
        for row, result in zip(ROWS, results, strict=True):
            prompt, new = result.prompt_logprobs, result.sequences[0]
            assert prompt is not None
            whole = _own_logprobs(own, (*row, *new.tokens))
            _same("scored", prompt[1:], whole[: len(row) - 1])
            _same("sampled", new.logprobs, whole[len(row) - 1 :])


def _check_training(
    engine: TorchEngine, base: LoadedBaseModel, own: Any, folder: Path
) -> tuple[str, ...]:
    """Returns the switches that the model takes."""
    off = dict.fromkeys(SWITCHES, False)
    trains = tuple(
        switch for switch in SWITCHES if _takes(base, LoraShape(2, **{**off, switch: True}))
    )
    if not trains:
        return trains
    shape = LoraShape(4, seed=0, **{**off, **dict.fromkeys(trains, True)})
    engine.create_model("m", str(folder), shape)
    before = _trained(engine, ROWS)
    for row, together in zip(ROWS, before, strict=True):
        _same("trained together", together, _own_logprobs(own, row))
        _same("trained alone", _trained(engine, [row])[0], _own_logprobs(own, row))
    for _ in range(_STEPS):
        engine.forward_backward("m", _examples(ROWS), "cross_entropy", {}, backward=True)
        engine.optim_step("m", AdamSettings(learning_rate=1e-3))
    after = _trained(engine, ROWS)
    assert sum(map(np.sum, after)) > sum(map(np.sum, before)), (
        "three steps make the texts no likelier"
    )
    saved = folder / "adapter"
    engine.save_model("m", saved, optimizer=False)
    adapter = base.load_adapter(saved)
    untouched = [name for name, (_, b) in adapter.layers.items() if not b.any()]
    assert not untouched, f"layers that training does not reach: {untouched}"
    for row, mine, scored in zip(
        ROWS,
        after,
        _sampled(base, ROWS, tokens=10_000, new=1, adapters=[adapter] * len(ROWS)),
        strict=True,
    ):
        assert scored.prompt_logprobs is not None
        _same(f"scored after training {row}", scored.prompt_logprobs[1:], mine)
    engine.create_model("again", str(folder), shape)
    engine.load_model("again", saved, optimizer=False)
    for mine, loaded in zip(after, _trained(engine, ROWS, "again"), strict=True):
        _same("loaded again", loaded, mine)
    engine.import_adapter(str(folder), shape, saved, folder / "imported")
    for name, weight in read_adapter(folder / "imported").named_weights().items():
        assert torch.equal(weight, engine._models["m"].parameters[name]), f"imported: {name}"
    _check_mixed(base, adapter, own)
    in_peft: Any = peft.PeftModel.from_pretrained(own, str(saved), is_trainable=True).eval()
    for row, mine in zip(ROWS, after, strict=True):
        _same("in peft", _own_logprobs(in_peft, row), mine)
    _check_gradients(engine, in_peft)
    return trains


def _check_mixed(base: LoadedBaseModel, adapter: Adapter, own: Any) -> None:
    """Compares samples of one batch, with an adapter, with another and with none, with those of
    each alone.
    """
    other = Adapter(adapter.rank, -adapter.alpha, adapter.layers)
    adapters = [adapter, None, other]
    mixed = _sampled(base, ROWS, tokens=10_000, new=_FEW, adapters=adapters)
    for row, one, result in zip(ROWS, adapters, mixed, strict=True):
        [alone] = _sampled(base, [row], tokens=10_000, new=1, adapters=[one])
        assert result.prompt_logprobs is not None
        assert alone.prompt_logprobs is not None
        _same("scored in a mixed batch", result.prompt_logprobs[1:], alone.prompt_logprobs[1:])
        new = result.sequences[0]
        if one is None:
            whole = _own_logprobs(own, (*row, *new.tokens))
            _same("sampled in a mixed batch", new.logprobs, whole[len(row) - 1 :])
        else:
            again = _sampled(base, [(*row, *new.tokens)], tokens=10_000, new=1, adapters=[one])
            scored = again[0].prompt_logprobs
            assert scored is not None
            _same("sampled in a mixed batch", new.logprobs, scored[len(row) :])


def _check_gradients(engine: TorchEngine, in_peft: Any) -> None:
    """Compares the gradients of rows of several lengths, computed together, with those that torch
    and peft compute for each row alone.
    """
    engine.forward_backward("m", _examples(ROWS), "cross_entropy", {}, backward=True)
    for row in ROWS:
        logits = in_peft(input_ids=torch.tensor([row]), use_cache=False).logits[0, :-1].float()
        torch.nn.functional.cross_entropy(logits, torch.tensor(row[1:]), reduction="sum").backward()
    theirs = {
        name.replace(".default", ""): weight.grad
        for name, weight in in_peft.named_parameters()
        if weight.requires_grad
    }
    mine = {name: weight.grad for name, weight in engine._models["m"].parameters.items()}
    assert theirs.keys() == mine.keys()
    for name, gradient in theirs.items():
        apart, largest = float((gradient - mine[name]).abs().max()), float(gradient.abs().max())
        assert apart <= _GRADIENTS_CLOSE * largest, (
            f"the gradient of {name}, at most {largest:.2g}, is {apart:.2g} apart"
        )


def _takes(base: LoadedBaseModel, shape: LoraShape) -> bool:
    try:
        base.new_adapter(shape)
    except InvalidRequest:
        return False
    return True


def _examples(rows: Iterable[Sequence[int]]) -> list[Example]:
    return [Example(np.array(row[:-1]), {"target_tokens": np.array(row[1:])}) for row in rows]


def _trained(
    engine: TorchEngine, rows: Iterable[Sequence[int]], model: str = "m"
) -> list[NDArray[np.float32]]:
    result = engine.forward_backward(model, _examples(rows), "cross_entropy", {}, backward=False)
    return [np.asarray(output["logprobs"], np.float32) for output in result.loss_fn_outputs]


def _sampled(
    base: LoadedBaseModel,
    rows: Sequence[Sequence[int]],
    *,
    tokens: int,
    new: int = _NEW,
    adapters: Sequence[Adapter | None] = (None,) * len(ROWS),
) -> list[SampleResult]:
    """Reads the rows together, `tokens` a pass, and samples `new` ones from each, scoring all."""
    requests: list[SampleRequest] = []
    for seed, (row, adapter) in enumerate(zip(rows, adapters, strict=False)):
        spec = SampleSpec(row, max_tokens=new, seed=seed, stop_tokens=[], prompt_logprobs=True)
        requests.append(SampleRequest(adapter, spec, new, StopRule(spec, frozenset(), str)))
    planner = AdapterPlanner(base.device)
    prefill = Prefill(base, planner, PrefixCache(0), requests, tokens)
    while not prefill.advance():
        pass
    batch = Batch(base, planner)
    batch.join(prefill)
    batch.drop_ended()
    while batch.samples:
        batch.step()
        batch.drop_ended()
    return [request.future.result(0) for request in requests]


@torch.inference_mode()
def _own_logprobs(model: Any, row: Sequence[int]) -> NDArray[np.float32]:
    """Returns the logprobs of all tokens but the first, by transformers."""
    logprobs = (
        model(input_ids=torch.tensor([row]), use_cache=False).logits[0].float().log_softmax(-1)
    )
    return logprobs[:-1].gather(-1, torch.tensor(row[1:])[:, None])[:, 0].numpy()


def _same(way: str, some: Any, others: Any) -> None:
    mine, theirs = np.asarray(some, np.float32), np.asarray(others, np.float32)
    apart = np.abs(mine - theirs)
    assert (apart <= _CLOSE + _ROUNDING * np.abs(theirs)).all(), (
        f"{way}: {apart.max():.2g} nats apart"
    )

"""Whether models of a kind are served exactly: found by training, scoring, sampling and saving a
tiny random one.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from attrs import frozen
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, PreTrainedConfig

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
_STEPS = 3


@frozen
class Precision:
    """The device and precision of a model, and how close to others its values must be."""

    device: str = "cpu"
    dtype: str = "float32"
    nats: float = 1e-5
    of_logprob: float = 2e-6
    """The part of a logprob's own size, in addition: some times what float32 tells apart."""
    of_gradient: float = 2e-4
    """The part of the largest element of a gradient."""

    @classmethod
    def of(cls, device: str, dtype: str) -> Precision:
        if dtype != "float32":
            return cls(device, dtype, 0.3, 0.03, 0.3)
        if device != "cpu":
            return cls(device, dtype, 1e-4, 2e-5, 2e-3)  # not measured
        return cls()

    def place(self, model: Any) -> Any:
        return model.to(self.device, getattr(torch, self.dtype))


_precision: ContextVar[Precision] = ContextVar("precision", default=Precision())  # noqa: B039  it is frozen

IN_USE: Mapping[str, str] = {
    "llama": "Llama 3",
    "llama4_text": "Llama 4 (text)",
    "qwen2": "Qwen2.5",
    "qwen3": "Qwen3",
    "qwen3_moe": "Qwen3 MoE",
    "gpt_oss": "gpt-oss",
    "gemma3_text": "Gemma 3 (text)",
    "phi3": "Phi-4",
    "mistral": "Mistral",
    "glm4_moe": "GLM-4.5",
    "deepseek_v3": "DeepSeek V3",
    "qwen3_next": "Qwen3-Next",
    "qwen3_5_text": "Qwen3.5",
    "qwen3_5_moe_text": "Qwen3.5 MoE",
    "nemotron_h": "Nemotron-H",
    "granitemoehybrid": "Granite 4",
}
"""The names of models that many people use now, by kind."""
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
then gives the same logprobs in the sampler, in peft, and when it is loaded again. The gradients of
a batch of several lengths are those that torch and peft compute for each text alone, within 0.0002
of the largest. `make test-models` repeats this for each row, and `make test` for the models of the
first table. With this release of transformers they fail if a row is no longer true; with other
releases, if a model is neither exact nor refused.

Models with longrope, such as Phi-3.5 and Phi-4-mini, are served up to the context length at which
their position embeddings change, `original_max_position_embeddings`. Beyond it, the logprobs of the
whole text change, so that those from sampling and training would differ.

A mixture of experts has an adapter of the whole rank for each expert, on the fused tensors in which
transformers keeps them, as `target_parameters` in peft does. Routers are not trained. What takes
the place of the attention in hybrids, such as Mamba, is trained with `train_attn`. Layers whose
weights a kind uses directly, `out_proj` in some and `dt_proj` in Jamba, are left out: an adapter
would have no effect there.

The state of a recurrent layer, such as Mamba or linear attention, stands for all tokens that it has
read. It cannot be cut after a common beginning, so no prompt reuses that of another, and prompts
are read one by one, so that no padding reaches it. Some kinds (Jamba) continue from a state by
single tokens alone in transformers: their prompts are read in one pass, however long they are.

Quantized models (MXFP4, FP8, GPTQ, bitsandbytes and others) are refused before they are loaded; the
error says how to make or find a copy that is not quantized.

Not run on CUDA: everything here was computed on a CPU, in float32. `make gpu-check` runs the tests
on a machine with a GPU.

## Models that many people use

| model | kind | trains | samples | peft file loads back | LoRA targets | notes |
|---|---|---|---|---|---|---|
{in_use}

## Supported

`train_attn` trains all linear layers of the attention, `train_mlp` those of the MLP, and
`train_unembed` the output layer. A switch marked `-` must be false: either the model has no such
linear layers, or some of these layers cannot be trained here.

| kind | class | train_attn | train_mlp | train_unembed | notes |
|---|---|---|---|---|---|
{exact}

## Refused

Sampling relies on caches: of full, sliding-window and chunked attention, of linear attention, and
of state spaces that transformers continues from any state. A model whose config.json states no
context length keeps a recurrent state alone (Mamba, RWKV, xLSTM), or limits its texts in another
way (BLOOM, Whisper).

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
                try:
                    findings[kind] = find(tiny_config(config), Path(folder))
                except AssertionError as error:
                    raise AssertionError(f"{kind}: {error}") from error
    return findings


def page(findings: Mapping[str, Finding]) -> str:
    """Returns the text of docs/models.md."""
    served = {kind: found for kind, found in findings.items() if not found.refusal}
    refused = {kind: found for kind, found in findings.items() if found.refusal}
    exact = [
        f"| {kind} | {found.arch} | "
        + " | ".join("yes" if switch in found.trains else "-" for switch in SWITCHES)
        + f" | {found.notes} |"
        for kind, found in served.items()
    ]
    in_use = [
        f"| {IN_USE[kind]} | {kind} | {_short(found.trains)} | yes | yes "
        f"| {', '.join(found.targets)} | {found.notes} |"
        for kind, found in served.items()
        if kind in IN_USE
    ]
    return _PAGE.format(
        release=transformers.__version__,
        tried=len(findings),
        served=len(served),
        in_use="\n".join(in_use),
        exact="\n".join(exact),
        reasons="\n".join(
            f"| {kind} | {found.arch} | {found.refusal} |" for kind, found in refused.items()
        ),
        not_tried="\n".join(f"| {kind} | {why} |" for kind, why in NOT_TRIED.items()),
    )


def _short(switches: Iterable[str]) -> str:
    return ", ".join(switch.removeprefix("train_") for switch in switches)


def find(
    config: PreTrainedConfig,
    folder: Path,
    *,
    generates: bool = False,
    precision: Precision = Precision(),
) -> Finding:
    """Serves a model of this configuration; with `generates`, compares samples with those of
    transformers' `generate`, too.

    Raises `AssertionError` when it is served and not exact, or is refused in a library's words.
    """
    _precision.set(precision)
    own: Any = precision.place(make_model(config, folder))
    arch = type(own).__name__
    try:
        engine = TorchEngine([str(folder)], precision.device, precision.dtype)
    except InvalidRequest as error:
        refusal = str(error)
        assert "not supported" in refusal or "encoder-decoder" in refusal, refusal
        return Finding(arch, without_details(refusal))
    try:
        [base] = engine._bases.values()
        _check_sampling(base, own)
        trains = _check_training(engine, base, own, folder)
        targets = _targets(base, trains)
        if generates:
            _check_greedy(engine, folder)
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
        "each in one pass" * base.layout.whole,
    ]
    return "; ".join(note for note in notes if note)


_DETAILS = re.compile(
    r"^the model '[^']*' (?:\([^)]*\) is not supported: |has )?"
    r"|\. transformers raised .*"
    r"|: they differ by .* nats per token on average"
    r"| \(max_position_embeddings[^)]*\): models that keep .*"
    r"|, which are not supported: sampling .*",
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
        tokens = torch.tensor([row], device=in_peft.device)
        logits = in_peft(input_ids=tokens, use_cache=False).logits[0, :-1].float()
        torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="sum").backward()
    theirs = {
        name.replace(".default", ""): weight.grad
        for name, weight in in_peft.named_parameters()
        if weight.requires_grad
    }
    mine = {name: weight.grad for name, weight in engine._models["m"].parameters.items()}
    assert theirs.keys() == mine.keys()
    for name, gradient in theirs.items():
        apart, largest = float((gradient - mine[name]).abs().max()), float(gradient.abs().max())
        assert apart <= _precision.get().of_gradient * largest, (
            f"the gradient of {name}, at most {largest:.2g}, is {apart:.2g} apart"
        )


def _check_greedy(engine: TorchEngine, folder: Path) -> None:
    """Compares greedy samples of a batch, half of them with an adapter, with `generate`."""
    engine.load_sampler("bare", str(folder), None)
    engine.load_sampler("adapted", str(folder), folder / "adapter")
    specs = [SampleSpec(row, max_tokens=_NEW, temperature=0.0, stop_tokens=[]) for row in ROWS]
    futures = {way: [engine.sample(way, one) for one in specs] for way in ("bare", "adapted")}
    bare = _precision.get().place(AutoModelForCausalLM.from_pretrained(folder))
    in_peft: Any = peft.PeftModel.from_pretrained(bare, str(folder / "adapter")).eval()
    for way, samples in futures.items():
        for row, sample in zip(ROWS, samples, strict=True):
            tokens = torch.tensor([row], device=in_peft.device)
            with in_peft.disable_adapter() if way == "bare" else nullcontext():
                expected = in_peft.generate(
                    input_ids=tokens,
                    attention_mask=torch.ones_like(tokens),
                    do_sample=False,
                    max_new_tokens=_NEW,
                    eos_token_id=None,
                    pad_token_id=0,
                )
            mine = sample.result(60).sequences[0].tokens
            assert list(mine) == expected[0, len(row) :].tolist(), f"{way} {row}"


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
    tokens = torch.tensor([row], device=model.device)
    logprobs = model(input_ids=tokens, use_cache=False).logits[0].float().log_softmax(-1)
    return logprobs[:-1].gather(-1, tokens[0, 1:, None])[:, 0].cpu().numpy()


def _same(way: str, some: Any, others: Any) -> None:
    mine, theirs = np.asarray(some, np.float32), np.asarray(others, np.float32)
    apart, allowed = np.abs(mine - theirs), _precision.get()
    assert (apart <= allowed.nats + allowed.of_logprob * np.abs(theirs)).all(), (
        f"{way}: {apart.max():.2g} nats apart"
    )

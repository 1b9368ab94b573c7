"""`FakeEngine`: an engine that answers at once by simple arithmetic, for tests of clients and for
load tests. It needs no torch.

All results are deterministic: a token's logprob depends on the token before it and on the number of
steps, and samples depend on the prompt, the seed and the sampler. Losses fall with every step, and
saving, loading and sampling are consistent with each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from attrs import asdict, define, evolve, frozen
from numpy.typing import NDArray

from tinkex_server.engine.interface import (
    ADAPTER_FILES,
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
    SampledTokens,
    SampleResult,
    SampleSpec,
    TopTokens,
    already_ready,
    unknown_base_model,
)
from tinkex_server.engine.model_info import local_folder, name_and_source, tokenizer_files

_RUNS_ON = "the fake engine, which makes up its numbers: for tests of clients"
_CONTEXT = 32_768  # tokens
_VOCABULARY = 1 << 18  # large enough for any tokenizer
# only tokens below this are sampled, which any tokenizer can decode
_SAMPLED = 256
_SPREAD = np.uint64(
    0x9E3779B97F4A7C15
)  # 2**64 divided by the golden ratio; its multiples spread over all 64 bits
_LENGTH = 16  # tokens of a sample without max_tokens
_FILE = "fake_adapter.json"
_OPTIMIZER_FILE = "fake_optimizer.json"


@frozen
class _Weights:
    """A stand-in for an adapter's weights: the number of steps, and a digest of those steps."""

    base_model: str
    steps: int = 0
    digest: str = ""


def _base(spec: str) -> ModelInfo:
    name, source = name_and_source(spec)
    folder = local_folder(source)
    files = tokenizer_files(Path(folder)) if folder else (None, None)
    return ModelInfo(name, _CONTEXT, _VOCABULARY, "FakeForCausalLM", name, *files, folder=folder)


@define(eq=False)
class _Model:
    weights: _Weights
    gradient: str = ""  # a digest of the batches since the last step


class FakeEngine:
    """An engine without weights; see `tinkex_server.engine.interface.Engine`. `models` are names of
    base models, which need not exist, or `NAME=FOLDER`.
    """

    def __init__(self, models: Sequence[str]) -> None:
        bases = [_base(model) for model in models]
        self._bases = {base.name: base for base in bases}
        self._models: dict[str, _Model] = {}
        self._samplers: dict[str, _Weights] = {}
        self.ready = already_ready(_RUNS_ON)

    @property
    def base_models(self) -> Sequence[ModelInfo]:
        return list(self._bases.values())

    def create_model(
        self, model_id: str, base_model: str, lora: LoraShape, optimizer: OptimizerKind = "adamw"
    ) -> Sequence[str]:
        self._models[model_id] = _Model(self._bare(base_model))
        return ()

    def unload_model(self, model_id: str) -> None:
        del self._models[self._known(model_id)]

    def check_loss(self, loss: CustomLoss) -> None:
        """Accepts any loss, since `forward_backward` treats all as cross entropy."""

    def forward_backward(
        self,
        model_id: str,
        data: Sequence[Example],
        loss_fn: str | CustomLoss,
        config: Mapping[str, float],
        *,
        backward: bool,
    ) -> LossResult:
        """Computes every loss as cross entropy, with the advantages, if any, as weights."""
        model = self._models[self._known(model_id)]
        for index, example in enumerate(data):
            _check(index, example)
        logprobs = [_target_logprobs(model.weights, example) for example in data]
        loss = -sum(
            float((_weights(example) * row).sum())
            for example, row in zip(data, logprobs, strict=True)
        )
        if backward:
            model.gradient = _digest(model.gradient, *(_bytes(example) for example in data))
        tokens = float(sum(len(example.tokens) for example in data))
        return LossResult(
            [{"logprobs": row} for row in logprobs], {"loss:sum": loss, "tokens:sum": tokens}
        )

    def optim_step(self, model_id: str, settings: OptimizerSettings) -> Mapping[str, float]:
        """Counts a step; as in torch, a step without a gradient changes nothing."""
        model = self._models[self._known(model_id)]
        if model.gradient:
            before = model.weights
            model.weights = evolve(
                before,
                steps=before.steps + 1,
                digest=_digest(before.digest, model.gradient, str(settings)),
            )
        norm, model.gradient = float(bool(model.gradient)), ""
        return {"grad_norm": norm, "learning_rate": settings.learning_rate}

    def save_model(self, model_id: str, folder: Path, *, optimizer: bool) -> None:
        weights = self._models[self._known(model_id)].weights
        folder.mkdir(parents=True)
        if optimizer:
            (folder / _OPTIMIZER_FILE).write_bytes(b"{}")
        (folder / _FILE).write_bytes(orjson.dumps(asdict(weights)))

    def load_model(self, model_id: str, folder: Path, *, optimizer: bool) -> None:
        model, weights = self._models[self._known(model_id)], _read(folder)
        if optimizer and not (folder / _OPTIMIZER_FILE).is_file():
            raise InvalidRequest("the checkpoint has no optimizer state; load its weights alone")
        model.weights, model.gradient = weights, ""

    def import_adapter(self, base_model: str, lora: LoraShape, source: Path, folder: Path) -> None:
        """Accepts any files; a digest of their bytes stands for the weights."""
        weights = self._bare(base_model)
        digest = _digest(*((source / name).read_bytes() for name in ADAPTER_FILES))
        folder.mkdir(parents=True)
        (folder / _FILE).write_bytes(orjson.dumps(asdict(evolve(weights, steps=1, digest=digest))))

    def load_sampler(self, sampler_id: str, base_model: str, folder: Path | None) -> None:
        self._samplers[sampler_id] = _read(folder) if folder else self._bare(base_model)

    def unload_sampler(self, sampler_id: str) -> None:
        self._samplers.pop(sampler_id, None)

    def sample(
        self, sampler_id: str, spec: SampleSpec, on_token: OnToken | None = None
    ) -> Future[SampleResult]:
        return _ended(lambda: self._sample(sampler_id, spec, on_token))

    def watch(self, died: Callable[[EngineExit], None]) -> None:
        """Does nothing, since this engine lives in the server's process."""

    def close(self) -> None:
        """Does nothing, since no work is left running."""

    def _sample(self, sampler_id: str, spec: SampleSpec, on_token: OnToken | None) -> SampleResult:
        weights = self._samplers.get(sampler_id)
        if weights is None:
            raise InvalidRequest(f"unknown sampler {sampler_id!r}")
        room = _CONTEXT - len(spec.prompt)
        if not spec.prompt or room < 1:
            raise InvalidRequest(
                f"the prompt has {len(spec.prompt)} tokens; it must have 1 to {_CONTEXT - 1}"
            )
        prompt = np.array(spec.prompt, np.int64)
        sequences = [
            _sampled(weights, prompt, spec, room, index) for index in range(spec.num_samples)
        ]
        if on_token:
            for token, logprob in zip(sequences[0].tokens, sequences[0].logprobs, strict=True):
                on_token(token, logprob)
        return SampleResult(sequences, *_about_prompt(weights, prompt, spec))

    def _bare(self, base_model: str) -> _Weights:
        if base_model not in self._bases:
            raise unknown_base_model(base_model, self._bases)
        return _Weights(base_model)

    def _known(self, model_id: str) -> str:
        if model_id not in self._models:
            raise InvalidRequest(f"unknown model {model_id!r}")
        return model_id


def _ended(work: Callable[[], SampleResult]) -> Future[SampleResult]:
    future: Future[SampleResult] = Future()
    try:
        future.set_result(work())
    except Exception as error:  # noqa: BLE001  handed on to whoever waits
        future.set_exception(error)
    return future


def _check(index: int, example: Example) -> None:
    where, length, targets = (
        f"data[{index}].loss_fn_inputs",
        len(example.tokens),
        example.loss_inputs.get("target_tokens"),
    )
    if targets is None:
        raise InvalidRequest(f"{where} lacks 'target_tokens'")
    if targets.ndim not in (1, 2) or len(targets) != length:
        raise InvalidRequest(
            f"{where}['target_tokens'] has the shape {list(targets.shape)}; expected "
            f"[{length}] or [{length}, K]"
        )
    for name in ("weights", "advantages"):
        value = example.loss_inputs.get(name, targets)
        if value.shape != targets.shape:
            raise InvalidRequest(
                f"{where}[{name!r}] has the shape {list(value.shape)}, but the targets have "
                f"{list(targets.shape)}"
            )


def _target_logprobs(weights: _Weights, example: Example) -> NDArray[np.float32]:
    """Returns logprobs in the shape of the targets, `(N,)` or `(N, K)`."""
    targets = example.loss_inputs["target_tokens"]
    return _logprobs(weights, example.tokens.reshape(-1, *[1] * (targets.ndim - 1)), targets)


def _weights(example: Example) -> NDArray[Any]:
    inputs = example.loss_inputs
    return inputs.get("weights", inputs.get("advantages", np.ones(inputs["target_tokens"].shape)))


def _bytes(example: Example) -> bytes:
    return example.tokens.tobytes() + b"".join(
        value.tobytes() for value in example.loss_inputs.values()
    )


def _read(folder: Path) -> _Weights:
    try:
        return _Weights(**orjson.loads((folder / _FILE).read_bytes()))
    except FileNotFoundError as error:
        raise InvalidRequest(
            "the saved weights were deleted, or another engine saved them"
        ) from error


def _digest(*parts: str | bytes) -> str:
    return hashlib.blake2b(_joined(parts), digest_size=8).hexdigest()


def _drawn(count: int, *parts: str | bytes) -> NDArray[np.int64]:
    """Returns `count` pseudo-random tokens that depend on the parts alone."""
    return np.frombuffer(hashlib.shake_128(_joined(parts)).digest(count), np.uint8).astype(np.int64)


def _joined(parts: Sequence[str | bytes]) -> bytes:
    return b"/".join(part.encode() if isinstance(part, str) else part for part in parts)


def _logprobs(weights: _Weights, before: NDArray[Any], tokens: NDArray[Any]) -> NDArray[np.float32]:
    """Returns the logprob of each token after the one before it: in (-4, 0] at first, and closer to
    0 with every step.
    """
    pairs = (before * _VOCABULARY + tokens).astype(np.uint64)
    return (pairs * _SPREAD * (-4 / (1 + 0.1 * weights.steps) / 2.0**64)).astype(np.float32)


def _sampled(
    weights: _Weights, prompt: NDArray[np.int64], spec: SampleSpec, room: int, index: int
) -> SampledTokens:
    """Returns one sample. Greedy samples ignore the seed and are all equal; stop strings are never
    found.
    """
    count = min(room, _LENGTH if spec.max_tokens is None else spec.max_tokens)
    chance = f"{spec.seed} {index}" if spec.temperature > 0 else "greedy"
    tokens = _drawn(count, weights.base_model, weights.digest, prompt.tobytes(), chance)
    stop = (
        next((at for at, token in enumerate(tokens.tolist()) if token in spec.stop_tokens), None)
        if spec.stop_tokens
        else None
    )
    if stop is not None:
        tokens = tokens[: stop + 1]
    before = np.concatenate([prompt[-1:], tokens[:-1]])
    logprobs = _logprobs(weights, before, tokens).tolist()
    top = _top(weights, before, spec.topk_sample_logprobs) if spec.topk_sample_logprobs else None
    return SampledTokens(tokens.tolist(), logprobs, "length" if stop is None else "stop", top)


def _top(weights: _Weights, before: NDArray[np.int64], count: int) -> list[TopTokens]:
    """Returns the most likely tokens after each of these tokens."""
    logprobs = _logprobs(weights, before[:, None], np.arange(_SAMPLED)[None])
    best = np.argsort(-logprobs, axis=-1)[:, :count]
    values = np.take_along_axis(logprobs, best, axis=-1)
    return [
        list(zip(*row, strict=True)) for row in zip(best.tolist(), values.tolist(), strict=True)
    ]


def _about_prompt(
    weights: _Weights, prompt: NDArray[np.int64], spec: SampleSpec
) -> tuple[Any, Any, Any, Any]:
    """Returns the prompt's logprobs, top tokens, target logprobs and alternative tokens, each None
    unless requested.
    """
    scored = len(prompt) - 1 if spec.prompt_logprobs_last_n is None else spec.prompt_logprobs_last_n
    first, targets = len(prompt) - scored, spec.target_prompt_tokens
    before = prompt[first - 1 : -1]
    unscored: list[None] = [None] * first
    return (
        [*unscored, *_logprobs(weights, before, prompt[first:]).tolist()]
        if spec.prompt_logprobs
        else None,
        [*unscored, *_top(weights, before, spec.topk_prompt_logprobs)]
        if spec.topk_prompt_logprobs
        else None,
        None
        if targets is None
        else np.where(targets < 0, np.float32(0), _logprobs(weights, prompt[:-1, None], targets)),
        _alternatives(weights, prompt, spec) if spec.prompt_alt_tokens_k else None,
    )


def _alternatives(
    weights: _Weights, prompt: NDArray[np.int64], spec: SampleSpec
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    shape = (len(prompt) - 1, spec.prompt_alt_tokens_k)
    tokens = _drawn(
        shape[0] * shape[1], weights.base_model, prompt.tobytes(), str(spec.seed)
    ).reshape(shape)
    return tokens, _logprobs(weights, prompt[:-1, None], tokens)

"""`check_agreement`: compares the logprobs of a sampler with those of the training engine, on the
same adapter and tokens, before anybody relies on them.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from secrets import token_hex

import numpy as np
from attrs import evolve, frozen
from numpy.typing import NDArray

from tinkex_server.engine.disaggregated import Sampler
from tinkex_server.engine.interface import (
    AdamSettings,
    Engine,
    EngineDied,
    Example,
    InvalidRequest,
    LoraShape,
    ModelInfo,
    SampleSpec,
)
from tinkex_server.engine.owned_folder import OwnedFolder

logger = logging.getLogger("tinkex.local")

_PROMPT, _SAMPLED = 16, 24  # tokens
_STEPS = 8
_LEARNING_RATE = 0.02
_EFFECT = 0.5  # nats: an adapter without effect would prove nothing
_SHAPES = (LoraShape(8, seed=1), LoraShape(8, seed=1, train_unembed=False))


@frozen
class Probe:
    """Tokens that both engines score; those from `first` on were sampled, and count."""

    tokens: Sequence[int]
    first: int


def check_agreement(training: Engine, sampler: Sampler, max_difference: float) -> str:
    """Compares both on every base model; returns the result as a phrase for people.

    Raises `EngineDied` if a logprob differs by more than `max_difference` nats.
    """
    largest, notes = 0.0, list[str]()
    for info in training.base_models:
        with closing(OwnedFolder()) as scratch:
            found = _Comparison(training, sampler, info, scratch.path, max_difference)
            largest = max(largest, found.run())
            notes += [note for note in found.notes if note not in notes]
    text = f"logprobs differ by at most {largest:.1g}"
    logger.info("sampling was compared with training: %s", text)
    return f"{text}; without {' and '.join(notes)}" if notes else text


class _Comparison:
    """The comparison on one base model."""

    def __init__(
        self,
        training: Engine,
        sampler: Sampler,
        info: ModelInfo,
        scratch: Path,
        max_difference: float,
    ) -> None:
        self.notes: list[str] = []
        """The things that the sampler cannot do."""
        self._training = training
        self._sampler = sampler
        self._info = info
        self._scratch = scratch
        self._max_difference = max_difference
        self._label = f"check-{token_hex(4)}"

    def run(self) -> float:
        """Returns the largest difference, of the base model and of an adapter on it."""
        with self._loaded("base", None) as name:
            probe = self._probe(name)
            bare = self._differences(name, probe, "the base model")
            unadapted = self._scores(name, probe)
        adapted = self._compare_adapter(probe, unadapted)
        return max(bare, adapted)

    def _compare_adapter(self, probe: Probe, unadapted: NDArray[np.float64]) -> float:
        refusal: InvalidRequest | None = None
        for shape in _SHAPES:
            try:
                folder = self._train(shape, probe)
            except InvalidRequest:  # a layer that this base model does not train
                continue
            try:
                with self._loaded("adapter", folder) as name:
                    scores = self._scores(name, probe)
                    if np.abs(scores - unadapted).max() < _EFFECT:
                        raise EngineDied(
                            f"the adapter that was trained to compare logprobs on "
                            f"{self._info.name} has no effect, so that nothing is proven"
                        )
                    return self._differences(name, probe, "an adapter")
            except InvalidRequest as error:
                refusal = error
                if shape.train_unembed:
                    self.notes.append(f"adapters of train_unembed=True ({error})")
        raise EngineDied(
            f"no adapter on {self._info.name} can be sampled: "
            f"{refusal or 'none of its layers can be trained'}"
        )

    def _train(self, shape: LoraShape, probe: Probe) -> Path:
        """Trains an adapter that makes the tokens of the probe unlikely; returns its folder."""
        model, folder = f"{self._label}-model", self._scratch / f"adapter-{shape.train_unembed}"
        tokens = np.array(probe.tokens, np.int64)
        example = Example(
            tokens[:-1],
            {"target_tokens": tokens[1:], "weights": np.full(len(tokens) - 1, -1.0, np.float32)},
        )
        self._training.create_model(model, self._info.name, shape)
        try:
            for _ in range(_STEPS):
                self._training.forward_backward(
                    model, [example], "cross_entropy", {}, backward=True
                )
                self._training.optim_step(model, AdamSettings(learning_rate=_LEARNING_RATE))
            self._training.save_model(model, folder, optimizer=False)
        finally:
            self._training.unload_model(model)
        return folder

    @contextmanager
    def _loaded(self, kind: str, folder: Path | None) -> Generator[str]:
        name = f"{self._label}-{kind}"
        engines: Sequence[Engine | Sampler] = (self._training, self._sampler)
        try:
            for engine in engines:
                engine.load_sampler(name, self._info.name, folder)
            yield name
        finally:
            for engine in engines:
                engine.unload_sampler(name)

    def _probe(self, name: str) -> Probe:
        """Returns a random prompt and what the training engine makes of it."""
        room = self._info.max_context_length - 12
        first = min(_PROMPT, room // 2)
        prompt = np.random.default_rng(1).integers(0, self._info.vocab_size, first).tolist()
        spec = _endless(prompt, min(_SAMPLED, room - first))
        sampled = self._training.sample(name, spec).result().sequences[0]
        return Probe([*prompt, *sampled.tokens], first)

    def _differences(self, name: str, probe: Probe, what: str) -> float:
        """Returns the largest difference of the logprobs of samples of every kind from those that
        the training engine gives to the same tokens.
        """
        found = {
            label: self._resampled(name, spec)
            for label, spec in {
                "greedy samples": _endless(probe.tokens[: probe.first], _SAMPLED, temperature=0.0),
                "samples": _endless(probe.tokens[: probe.first], _SAMPLED, num_samples=4),
                "samples at temperature 0.6 with top_k 3": _endless(
                    probe.tokens, 6, temperature=0.6, top_k=3, top_p=0.9, num_samples=2
                ),
            }.items()
        }
        for label, differences in found.items():
            if differences.max() > self._max_difference:
                raise EngineDied(self._refusal(what, label, differences))
        return float(max(differences.max() for differences in found.values()))

    def _resampled(self, name: str, spec: SampleSpec) -> NDArray[np.float64]:
        samples = self._sampler.sample(name, spec).result().sequences
        return np.concatenate(
            [
                np.abs(
                    np.array(sample.logprobs)
                    - self._scores(
                        name,
                        Probe([*spec.prompt, *sample.tokens], len(spec.prompt)),
                    )
                )
                for sample in samples
            ]
        )

    def _scores(self, name: str, probe: Probe) -> NDArray[np.float64]:
        """Returns the logprobs that the training engine gives to the sampled tokens of a probe."""
        spec = evolve(_endless(probe.tokens, 1, temperature=0.0), prompt_logprobs=True)
        scores = self._training.sample(name, spec).result().prompt_logprobs or ()
        return np.array(scores[probe.first :], np.float64)

    def _refusal(self, what: str, label: str, differences: NDArray[np.float64]) -> str:
        return (
            f"the sampler does not compute {what} on {self._info.name} as the training engine "
            f"does: the logprobs of {label} differ by up to {differences.max():.3g} nats, on "
            f"average by {differences.mean():.3g}, and at most {self._max_difference:g} is "
            "accepted (--vllm-max-difference). Let vLLM serve the same base model in the same "
            "precision (--dtype), unquantized, with --logprobs-mode raw_logprobs"
        )


def _endless(
    prompt: Sequence[int],
    max_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int = -1,
    top_p: float = 1.0,
    num_samples: int = 1,
) -> SampleSpec:
    """Returns a request for samples that nothing stops."""
    return SampleSpec(
        prompt,
        num_samples,
        max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=1,
        stop_strings=(),
        stop_tokens=(),
    )

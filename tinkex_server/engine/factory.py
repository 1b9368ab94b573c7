"""The engines that `serve` knows by name. torch is imported only in the engine process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal, TypeAlias

from tinkex_server.engine.agreement import check_agreement
from tinkex_server.engine.disaggregated import DisaggregatedEngine, Sampler
from tinkex_server.engine.fake import FakeEngine
from tinkex_server.engine.interface import Engine, InvalidRequest, ModelInfo, already_ready
from tinkex_server.engine.model_info import check_names, describe, loadable_name, name_and_source
from tinkex_server.engine.process.engine import ProcessEngine
from tinkex_server.engine.ray.cluster import require_ray
from tinkex_server.engine.ray.settings import RaySettings, check_fit
from tinkex_server.engine.vllm.settings import VllmSettings
from tinkex_server.optional_dependencies import require

logger = logging.getLogger("tinkex.local")

EngineName: TypeAlias = Literal["torch", "fake"]
"""The name of an engine: `torch` trains and samples, in a process of its own; `fake` answers at
once by simple arithmetic, for tests of clients.
"""


def create_engine(
    name: EngineName,
    models: Sequence[str],
    device: str | None = None,
    dtype: str | None = None,
    vllm: VllmSettings | None = None,
    ray: RaySettings | None = None,
) -> Engine:
    """Creates an engine with these base models, which may still be starting. `device` and `dtype`
    apply to torch. With `ray` it runs on a Ray cluster; with `vllm` samples come from there, and
    the engine trains.

    Raises `ImportError`, with the packages to install, or `InvalidRequest` for a model that cannot
    be found or is not supported.
    """
    check_names(models)
    if ray:
        require_ray()
    if name == "fake":
        if vllm:
            raise InvalidRequest(
                "the fake engine makes up its weights, which vLLM cannot load: use --engine torch "
                "with --sampler vllm"
            )
        if ray and ray.train_replicas > 1:
            raise InvalidRequest(
                "the fake engine has no gradients that replicas could sum: use --engine torch with "
                "--train-replicas"
            )
        fake = FakeEngine(models)
        return _on_ray(FakeEngine, models, fake.base_models, ray) if ray else fake
    require("torch", "transformers", "safetensors")
    described = [describe(model) for model in models]
    for model in described:
        if model.context_note:
            logger.warning(
                "the context length of %s is limited to %d tokens: %s",
                model.name,
                model.max_context_length,
                model.context_note,
            )
    create = partial(create_torch_engine, device=device, dtype=dtype)
    create_replica = partial(create_torch_replica, device=device, dtype=dtype)
    if ray:
        return _on_ray(create, models, described, ray, create_replica, vllm)
    training = ProcessEngine(partial(create, models), described)
    return with_vllm(training, models, vllm) if vllm else training


def with_vllm(training: Engine, models: Sequence[str], settings: VllmSettings) -> Engine:
    """Returns an engine that trains by `training` and samples by vLLM."""
    # imported here, since the HTTP client takes longest
    from tinkex_server.engine.vllm.sampler import VllmSampler

    sampler = VllmSampler(training.base_models, _sources(models), settings, training.ready)
    return _disaggregated(training, sampler, settings)


def _disaggregated(training: Engine, sampler: Sampler, settings: VllmSettings) -> Engine:
    check = partial(check_agreement, max_difference=settings.max_difference)
    return DisaggregatedEngine(training, sampler, check)


def _sources(models: Sequence[str]) -> Mapping[str, str]:
    """Returns where each base model is loaded from, by its name."""
    return {name_and_source(model)[0]: loadable_name(model) for model in models}


def _on_ray(
    create: Callable[[Sequence[str]], Engine],
    models: Sequence[str],
    described: Sequence[ModelInfo],
    settings: RaySettings,
    create_replica: Callable[[Sequence[str]], Engine] | None = None,
    vllm: VllmSettings | None = None,
) -> Engine:
    """Creates an engine whose actors call `create` with one of the models each; trainers that are
    several call `create_replica`. With `vllm`, samples come from there.
    """
    if vllm:
        check_fit(settings, vllm)
    # it imports ray, which takes seconds
    from tinkex_server.engine.ray.engine import RayEngine, VllmOnRay

    specs = {model.name: [spec] for model, spec in zip(described, models, strict=True)}
    train = create_replica if create_replica and settings.train_replicas > 1 else create
    samplers: dict[str, Callable[[str], Sampler]] = {}
    if vllm and vllm.python:
        sources = _sources(models)
        for model in described:
            samplers[model.name] = partial(create_vllm_sampler, model, sources[model.name], vllm)
    engine = RayEngine(
        {name: partial(create, spec) for name, spec in specs.items()},
        described,
        settings,
        trainer_factories={name: partial(train, spec) for name, spec in specs.items()},
        vllm=VllmOnRay(settings=vllm, factories=samplers) if vllm else None,
    )
    if vllm and engine.vllm_samplers and samplers:
        return _disaggregated(engine, engine.vllm_samplers, vllm)
    return with_vllm(engine, models, vllm) if vllm else engine


def create_vllm_sampler(
    model: ModelInfo, source: str, settings: VllmSettings, trains_on: str
) -> Sampler:
    """Starts a vLLM with one base model in the precision of its trainer; called in an actor, which
    is replaced when the vLLM dies.
    """
    from tinkex_server.engine.vllm.sampler import Patience, VllmSampler

    return VllmSampler(
        [model],
        {model.name: source},
        settings,
        already_ready(trains_on),
        Patience(restarts=False),
    )


def create_torch_engine(
    models: Sequence[str], device: str | None = None, dtype: str | None = None
) -> Engine:
    """Creates the torch engine; called in the engine process, where torch is imported."""
    from tinkex_server.engine.torch.lean_imports import import_lean

    import_lean()
    from tinkex_server.engine.torch.engine import TorchEngine

    return TorchEngine(models, device, dtype)


def create_torch_replica(
    models: Sequence[str], device: str | None = None, dtype: str | None = None
) -> Engine:
    """Creates a torch engine that trains together with others; called where torch is imported."""
    from tinkex_server.engine.torch.lean_imports import import_lean

    import_lean()
    from tinkex_server.engine.torch.replica import ReplicaEngine

    return ReplicaEngine(models, device, dtype)

"""`train`: one call that begins or resumes a run of any recipe."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from tinkex import (
    BadRequestError,
    InvalidInputError,
    ServiceClient,
    TrainingClient,
    UnprocessableEntityError,
)
from tinkex.recipes.activity import Activity
from tinkex.recipes.config import TrainConfig
from tinkex.recipes.context import Context, context_length
from tinkex.recipes.distill import Distill, DistillConfig
from tinkex.recipes.dpo import Dpo, DpoConfig
from tinkex.recipes.functions import load_function
from tinkex.recipes.interrupts import Interrupts
from tinkex.recipes.loop import Loop, Recipe, Result
from tinkex.recipes.progress import display_for
from tinkex.recipes.rl import Rl, RlConfig
from tinkex.recipes.run_folder import RunFolder, SavedState
from tinkex.recipes.saves import Saves
from tinkex.recipes.server_metrics import server_metrics
from tinkex.recipes.sft import Sft, SftConfig
from tinkex.recipes.trackers import Tracker, open_trackers

_log = logging.getLogger("tinkex")

CONFIGS: Mapping[str, type[TrainConfig]] = {
    config.recipe: config for config in (SftConfig, RlConfig, DpoConfig, DistillConfig)
}
"""The configs of the recipes, by name."""

_RECIPES: Mapping[str, Callable[[Any, Context], Recipe]] = {
    "sft": Sft,
    "rl": Rl,
    "dpo": Dpo,
    "distill": Distill,
}


def train(
    config: TrainConfig,
    service: ServiceClient,
    *,
    console: Console | None = None,
    interrupts: Interrupts | None = None,
) -> Result:
    """Trains a model by the recipe that the config belongs to, in a new run folder.

    The first Ctrl-C ends the run after a save, with `Result.interrupted`; the second one raises
    `KeyboardInterrupt` at once.

    Args:
        config: an `SftConfig`, `RlConfig`, `DpoConfig` or `DistillConfig`.
        service: the server to train on.
        console: where the progress is shown; by default nowhere.
        interrupts: what ends the run early, in place of Ctrl-C.

    Raises:
        DataError: a line of the data cannot be used.
        InvalidInputError: a setting is wrong, or the folder has a run already.
        TinkexError: a step failed. `resume` goes on from the last save.

    Example:
        result = train(SftConfig(data="numbers.jsonl", steps=100), service)
        sampler = service.create_sampling_client(result.state.sampler_path)
    """
    out = config.out or f"runs/{config.recipe}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = RunFolder.create(
        Path(out), config.recipe, config.to_dict(), str(service.config.base_url)
    )
    try:
        return _run(config, service, folder, console, interrupts)
    except BaseException:
        folder.remove_if_unused()
        raise


def resume(
    path: Path | str,
    service: ServiceClient,
    changes: Mapping[str, Any] | None = None,
    *,
    console: Console | None = None,
    interrupts: Interrupts | None = None,
) -> Result:
    """Goes on with the run in a folder: its next batch is the one after the last that was applied
    and saved.

    Args:
        path: the folder of the run.
        service: the server that the run began on.
        changes: settings to change: only `steps`, `epochs`, `save_every`, `keep_all`, `eval_every`
            and `log` can be, since all others decide what the next batch does.
        console, interrupts: as for `train`.

    Raises:
        InvalidInputError: there is no run, its data has changed, or a setting cannot be changed.
        NotFoundError, RequestFailedError: the server no longer has the saved state.

    Example:
        result = resume("runs/sft-20261129-120000", service)
    """
    folder = RunFolder.open(Path(path))
    run = folder.run()
    config_class = CONFIGS[run["recipe"]]
    fixed = sorted((changes or {}).keys() - _CHANGEABLE)
    if fixed:
        raise InvalidInputError(
            f"a resumed run keeps its {fixed[0]}; only {', '.join(sorted(_CHANGEABLE))} can change",
            advice="For other settings start a new run, with --start-from and the state "
            f"{folder.state().path}.",
        )
    config = config_class.of({**run["config"], **(changes or {})}, str(folder.path))
    return _run(config, service, folder, console, interrupts)


_CHANGEABLE = frozenset({"steps", "epochs", "save_every", "keep_all", "eval_every", "log"})


def _run(
    config: TrainConfig,
    service: ServiceClient,
    folder: RunFolder,
    console: Console | None,
    interrupts: Interrupts | None,
) -> Result:
    say = _printer(console)
    with ExitStack() as stack:
        stack.enter_context(_saying_what_is_saved(folder, say))
        activity = stack.enter_context(Activity())
        state = folder.state()
        say(f"{config.recipe} of {config.model} at {service.config.base_url}, in {folder.path}")
        trainer = _trainer(service, config, folder)
        context = Context(
            service,
            trainer,
            trainer.get_tokenizer(),
            folder,
            activity,
            load_function(config.chat_template) if config.chat_template else None,
            context_length(service, config.model),
        )
        recipe = _RECIPES[config.recipe](config, context)
        trackers = [
            *open_trackers(config.log, folder, config.to_dict()),
            *server_metrics(service, trainer, config, recipe.goal, state.step),
        ]
        for tracker in trackers:
            stack.push(_closing(tracker))
        display = display_for(console, activity, recipe.goal.metric, state.step, recipe.total)
        if state.step < recipe.total:
            say(f"{recipe.summary}; steps {state.step + 1} to {recipe.total}")
        else:
            say(f"{recipe.summary}; all {recipe.total} steps are done, and --steps takes more")
        stack.enter_context(display)
        interrupts = interrupts or Interrupts(
            lambda: display.note("ending after a save; Ctrl-C again ends at once")
        )
        stack.enter_context(interrupts)
        return Loop(
            recipe,
            Saves(trainer),
            service.create_rest_client(),
            config,
            folder,
            display,
            activity,
            interrupts,
            trackers,
        ).run()


def _closing(tracker: Tracker) -> Callable[[object, object, object], None]:
    """Returns the end of a context that closes a tracker, and says whether there was an error."""
    return lambda kind, error, trace: tracker.close(failed=error is not None)


@contextmanager
def _saying_what_is_saved(folder: RunFolder, say: Callable[[str], None]) -> Generator[None]:
    """Says how to go on with a run that the block ends by an error, if any step was taken."""
    try:
        yield
    except BaseException:
        state = folder.state()
        if state.path is not None or folder.metrics():
            command = f"tinkex train {folder.run()['recipe']} --resume {folder.path}"
            saved = f"saved up to step {state.step}" if state.path else "not saved yet"
            say(f"the run is {saved}; to go on: {command}")
        raise


def _printer(console: Console | None) -> Callable[[str], None]:
    def say(text: str) -> None:
        if console is not None:
            console.print(text, markup=False, highlight=False, soft_wrap=True)

    return say


def _trainer(service: ServiceClient, config: TrainConfig, folder: RunFolder) -> TrainingClient:
    """Creates the model of a run, which has the name of the run's folder where the server keeps
    such a thing.
    """
    metadata = {"name": folder.path.absolute().name, "recipe": config.recipe}
    try:
        return _model(service, config, folder.state(), metadata)
    except (BadRequestError, UnprocessableEntityError) as error:
        if "user_metadata" not in error.message:
            raise
        return _model(service, config, folder.state(), None)


def _model(
    service: ServiceClient,
    config: TrainConfig,
    state: SavedState,
    metadata: Mapping[str, str] | None,
) -> TrainingClient:
    model, rank = config.model, config.rank
    if state.path is not None:
        return service.create_training_client_from_state_with_optimizer(
            state.path, model, metadata, rank=rank
        )
    if config.start_from is not None:
        return service.create_training_client_from_state(config.start_from, model, metadata)
    create = partial(service.create_lora_training_client, model, rank=rank, user_metadata=metadata)
    try:
        return create(seed=config.seed)
    except (BadRequestError, UnprocessableEntityError) as error:
        if "seed" not in error.message:
            raise
        _log.warning(
            "this server takes no seed for an adapter, so that another run begins "
            "with other weights"
        )
        return create()

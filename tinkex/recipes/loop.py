"""The loop that all recipes share: it takes the steps, evaluates, saves, and ends when asked to.

A recipe knows what one step is. The loop knows when: which steps have been applied, when to save,
and what a resumed run still has to do.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, Protocol

from attrs import define, evolve, frozen

from tinkex import RestClient, TinkexError, UnsupportedByServer
from tinkex.recipes.activity import Activity
from tinkex.recipes.config import TrainConfig
from tinkex.recipes.interrupts import Interrupts
from tinkex.recipes.progress import Display, Pace
from tinkex.recipes.run_folder import Metrics, RunFolder, SavedState
from tinkex.recipes.saves import Saves, metadata_of
from tinkex.recipes.trackers import Tracker

_log = logging.getLogger("tinkex")


@frozen
class Goal:
    """The metric that a recipe improves."""

    metric: str
    lower_is_better: bool


class Recipe(Protocol):
    """A recipe, which defines one step of training."""

    goal: ClassVar[Goal]
    in_flight: ClassVar[int]
    """The number of steps that may be sent before the first one has ended."""
    total: int
    """The steps of the whole run."""
    summary: str
    """A line for people about the data."""
    prompt: str
    """A prompt of the data, to try the trained model with."""

    def begin(self, step: int) -> Callable[[], Metrics]:
        """Sends a step, counted from 0. Returns a function that waits for its end and returns its
        metrics, among them `tokens`, the tokens that the model has read.
        """
        ...

    def evaluate(self, step: int) -> Metrics:
        """Returns the metrics of held-out data after so many steps; none without such data."""
        ...


@frozen
class Result:
    """A run that has ended, or was interrupted after a save.

    Example:
        result = train(SftConfig(data="numbers.jsonl"), service)
        print(result.metrics[-1]["loss"], result.state.sampler_path)
    """

    folder: RunFolder
    recipe: str
    goal: Goal
    metrics: Sequence[Mapping[str, float]]
    """The metrics of each step, also of those before a resume."""
    state: SavedState
    total: int
    prompt: str
    """A prompt of the data, to try the model with."""
    interrupted: bool


@define
class Loop:
    """One run: a recipe, the saves of the model, and where its progress goes."""

    recipe: Recipe
    saves: Saves
    rest: RestClient
    config: TrainConfig
    folder: RunFolder
    display: Display
    activity: Activity
    interrupts: Interrupts
    trackers: Sequence[Tracker]

    def run(self) -> Result:
        """Takes all steps that are left, and saves.

        Raises:
            TinkexError: a step failed. The run can be resumed from the last save.
        """
        total, state = self.recipe.total, self.folder.state()
        history: list[Mapping[str, float]] = [*self.folder.forget_after(state.step)]
        pace = Pace(state.step, total)
        while state.step < total and not self.interrupts.asked:
            for metrics in self._steps(state.step, self._next_stop(state.step), pace):
                history.append(metrics)
            applied = int(history[-1]["step"]) if history else 0
            if applied > state.step or state.path is None:
                state = self._save(state, applied, metadata_of(history))
        if state.step == total and state.sampler_path is None:
            self.activity.now("saving the weights on the server")
            sampler_path = self.saves.sampler("final", metadata_of(history))
            state = evolve(state, sampler_path=sampler_path)
            self.folder.save(state)
        return Result(
            self.folder,
            self.config.recipe,
            self.recipe.goal,
            history,
            state,
            total,
            self.recipe.prompt,
            interrupted=state.step < total,
        )

    def _next_stop(self, step: int) -> int:
        """Returns the step after which the state is saved next."""
        every = self.config.save_every
        return min(self.recipe.total, step // every * every + every)

    def _steps(self, first: int, stop: int, pace: Pace) -> Iterator[Mapping[str, float]]:
        """Takes the steps from `first` to `stop`, or fewer if asked to end. Yields the metrics of
        each one when it is applied and recorded.
        """
        sent: deque[Callable[[], Metrics]] = deque()
        next_step = first
        while True:
            while (
                next_step < stop
                and len(sent) < self.recipe.in_flight
                and not self.interrupts.asked
                and not (sent and self._evaluates_after(next_step))
            ):
                sent.append(self.recipe.begin(next_step))
                next_step += 1
            if not sent:
                return
            done = next_step - len(sent) + 1
            self.activity.now(f"training step {done} on the server")
            yield self._record(done, sent.popleft()(), pace)

    def _evaluates_after(self, step: int) -> bool:
        """Returns whether the held-out data is evaluated after so many steps."""
        if self.config.eval_data is None:
            return False
        every = self.config.eval_every or max(1, self.recipe.total // 5)
        return step == self.recipe.total or (step > 0 and step % every == 0)

    def _record(self, step: int, metrics: Metrics, pace: Pace) -> Mapping[str, float]:
        """Writes the metrics of a step, with those of the held-out data where they are due."""
        pace.note(step, metrics["tokens"])
        if self._evaluates_after(step):
            self.activity.now("evaluating held-out data on the server")
            metrics = {**metrics, **self.recipe.evaluate(step)}
        adam = self.config.adam(step - 1, self.recipe.total)
        line = {
            "step": step,
            **metrics,
            "learning_rate": adam.learning_rate,
            "tokens_per_second": round(pace.tokens_per_second, 1),
            "time": round(time.time(), 3),
        }
        self.folder.add_metrics(line)
        # trackers note the time themselves
        values = {name: line[name] for name in line if name not in ("step", "time")}
        for tracker in self.trackers:
            tracker.log(step, values)
        self.display.step(pace, line)
        return line

    def _save(self, before: SavedState, step: int, metadata: Mapping[str, str]) -> SavedState:
        """Saves the state after `step` steps, and then deletes the one before, unless all are to be
        kept.
        """
        self.activity.now("saving the state on the server")
        state = SavedState(step, self.saves.state(f"step-{step:06d}", metadata))
        self.folder.save(state)
        if before.path is not None and not self.config.keep_all:
            self._delete(before.path)
        return state

    def _delete(self, path: str) -> None:
        """Deletes a state that is no longer needed, if the server lets it."""
        try:
            self.rest.delete_checkpoint_from_tinker_path(path)
        except UnsupportedByServer:
            pass
        except TinkexError as error:
            _log.warning("the state before could not be deleted, and stays: %s: %s", path, error)

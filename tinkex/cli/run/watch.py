"""The command `tinkex run watch`, which follows the metrics of a run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click
from attrs import define, field

from tinkex.cli.command import command as data_command
from tinkex.cli.connection import Connection, connection_options
from tinkex.cli.exit_codes import ExitCode
from tinkex.cli.failures import Failure
from tinkex.cli.output import Output

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tinkex.watching.files import Metrics

_SECONDS = 0.5  # between two looks
_HEIGHT = 10  # lines of the curve
_ORDER = {"step": 0, "loss": 1}  # of the metrics in a line; the others follow as they come


class Source(Protocol):
    """A place from which the metrics of a run come."""

    def new(self) -> list[Metrics]: ...

    @property
    def ending(self) -> str | None: ...


@data_command(
    "watch",
    help=(
        "Follow the metrics of a training run, until Ctrl-C. RUN is the folder of a recipe's run, "
        "a file of metrics in JSON lines, or the id of a run on the embedded server."
    ),
    fields=("step", "loss"),
    examples=[
        "tinkex run watch runs/my-run",
        "tinkex run watch runs/my-run --no-follow --json",
    ],
    id_field="step",
)
@click.argument("run")
@click.option(
    "--metric",
    metavar="NAME",
    help="Metric to show.  [default: all in a pipe; of a curve loss, else the first]",
)
@click.option("--follow/--no-follow", default=True, help="Whether to wait for more.")
@connection_options
def command(
    output: Output, connection: Connection, run: str, metric: str | None, follow: bool
) -> None:
    """Writes a line for each step; on a terminal it draws a live curve."""
    with ExitStack() as stack:
        source = _open(output, connection, run, stack, follow=follow)
        batches = _batches(source, follow=follow)
        if metric is not None:
            batches = _with_metric(output, batches, metric, waits=follow)
        if output.mode == "human" and output.terminal.moves_cursor and output.can_write("⣿"):
            _draw(output, run, batches, metric)
        else:
            _write(output, batches, metric)
        if source.ending:
            output.status(f"The run has ended: {source.ending}.")


def _open(
    output: Output, connection: Connection, run: str, stack: ExitStack, *, follow: bool
) -> Source:
    from tinkex.watching.files import metrics_file

    path = Path(run)
    if path.exists():
        return _File(metrics_file(path), waits=follow)
    if path.parent != Path() or path.suffix:
        raise Failure(f"there is no file or folder {run}", code=ExitCode.NOT_FOUND, hint="ls runs")
    from tinkex.watching.server_runs import ServerRun

    return stack.enter_context(ServerRun(connection.config, run))


@define(eq=False)
class _File:
    """A file of metrics, which may not have been written yet."""

    path: Path
    waits: bool
    ending: str | None = None
    _reader: Any = field(init=False, default=None)

    def new(self) -> list[Metrics]:
        from tinkex.watching.files import MetricsReader

        self._reader = self._reader or MetricsReader(self.path)
        try:
            return self._reader.new()
        except FileNotFoundError:
            if self.waits:
                return []  # the first step is still to come
            raise


def _batches(source: Source, *, follow: bool) -> Iterator[list[Metrics]]:
    """Yields the steps that came since the last look, which may be none."""
    while True:
        new = source.new()
        yield new
        if (not follow and not new) or source.ending:
            return
        if not new:
            time.sleep(_SECONDS)


def _with_metric(
    output: Output, batches: Iterator[list[Metrics]], metric: str, *, waits: bool
) -> Iterator[list[Metrics]]:
    """Passes the steps on. Says which metrics there are if the first steps lack the one that is
    wanted, which may come later, as that of an evaluation does.

    Raises:
        Failure: at the end, no step has had it.
    """
    names = dict[str, None]()
    was_told = False
    for batch in batches:
        names |= dict.fromkeys(name for row in batch for name in row if name != "step")
        if waits and names and metric not in names and not was_told:
            was_told = True
            output.status(f"No step has {metric} yet. There are: {', '.join(names)}.")
        yield batch
    if names and metric not in names:
        raise Failure(
            f"no step has the metric {metric}; there are: {', '.join(names)}",
            code=ExitCode.NOT_FOUND,
        )


def _write(output: Output, batches: Iterator[list[Metrics]], metric: str | None) -> None:
    for batch in batches:
        for row in batch:
            if names := _written(row, metric):
                output.event({name: _whole(row[name]) for name in names})


def _written(row: Metrics, metric: str | None) -> list[str]:
    """Returns the names of what is written of a step, in this order: of all metrics, or of the one
    that is wanted and the step's number. Empty for a step that lacks it.
    """
    if metric is None:
        return sorted(row, key=lambda name: _ORDER.get(name, len(_ORDER)))
    return [name for name in ("step", metric) if name in row] if metric in row else []


def _whole(value: float) -> float | int:
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _draw(output: Output, run: str, batches: Iterator[list[Metrics]], metric: str | None) -> None:
    """Draws a curve in the terminal that grows with the run."""
    from rich.live import Live

    rows: list[Metrics] = []
    with Live(console=output.console, auto_refresh=False, transient=False) as live:
        for batch in batches:
            if rows and not batch:
                continue
            rows += batch
            live.update(_view(output, run, rows, metric), refresh=True)


def _view(output: Output, run: str, rows: Sequence[Metrics], metric: str | None) -> RenderableType:
    from rich.text import Text

    from tinkex.cli.curve import with_scale

    title = Path(run).name or run
    if not rows:
        return Text(f"{title}: no steps yet", "dim")
    name = metric or _drawn(rows)
    values = [row[name] for row in rows if name in row]
    lines = [f"{title}  step {_whole(rows[-1].get('step', len(rows)))}  {_last(rows[-1])}"]
    if not values:
        return Text(f"{lines[0]}\nno step has {name} yet")
    return Text("\n".join([lines[0], name, *with_scale(values, output.terminal.width, _HEIGHT)]))


def _drawn(rows: Sequence[Metrics]) -> str:
    """Returns the metric that is drawn unless another is asked for."""
    names = [name for name in rows[-1] if name != "step"]
    return "loss" if "loss" in names or not names else names[0]


def _last(row: Metrics) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "step")

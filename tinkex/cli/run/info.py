"""The command `tinkex run info`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from tinkex.cli import complete
from tinkex.cli.checkpoint.rows import row_of as checkpoint_row
from tinkex.cli.command import command as data_command
from tinkex.cli.connection import Connection, connection_options
from tinkex.cli.output import Output, Size
from tinkex.cli.run.rows import FIELDS, row_of

if TYPE_CHECKING:
    from tinkex.types import TrainingRun


@data_command(
    "info",
    help="Show one training run with its checkpoints.",
    fields=(*FIELDS, "continues", "continued_by", "size_bytes", "checkpoints"),
    examples=["tinkex run info RUN", "tinkex run info RUN --json=id,checkpoints"],
)
@click.argument("run_id", metavar="RUN", shell_complete=complete.runs)
@connection_options
def command(output: Output, connection: Connection, run_id: str) -> None:
    """Shows a training run."""
    from tinkex.cli.run.lookup import suggesting_runs

    rest = connection.rest
    with suggesting_runs(rest, run_id):
        run = rest.get_training_run(run_id)
    saved = [checkpoint_row(one) for one in rest.list_checkpoints(run_id).checkpoints]
    size = Size(sum(row["size_bytes"] or 0 for row in saved))
    paths = [row["path"] for row in saved]
    output.record(
        {
            **row_of(run),
            "continues": _continued(run),
            "continued_by": _shown(output, run.continued_by or [], run.continued_by or []),
            "size_bytes": size,
            "checkpoints": _shown(output, saved, paths),
        }
    )


def _continued(run: TrainingRun) -> str | None:
    """Returns the path of the checkpoint from which the run goes on with another one."""
    paths = (load.tinker_path for load in run.origins or [] if load.after_step == 0)
    return next(paths, None)


def _shown(output: Output, rows: Sequence[Any], lines: Sequence[str]) -> Any:
    """Returns a list: whole in json, a line for each row where a person reads."""
    return rows if output.mode == "json" else "\n".join(lines)

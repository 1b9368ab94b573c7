"""The command `tinkex checkpoint delete`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from tinkex.cli import complete
from tinkex.cli.arguments import Duration, Time
from tinkex.cli.checkpoint.rows import KINDS, row_of
from tinkex.cli.checkpoint.selection import Row, Selection
from tinkex.cli.command import command as data_command
from tinkex.cli.connection import Connection, connection_options
from tinkex.cli.exit_codes import ExitCode
from tinkex.cli.output import Output, Size, size

if TYPE_CHECKING:
    from tinkex import RestClient

_NAMED = 10  # paths that a question names


@data_command(
    "delete",
    help=(
        "Delete checkpoints permanently: those of the paths, or all that meet the conditions. "
        "`--dry-run` shows which."
    ),
    fields=("path", "size_bytes", "deleted", "error"),
    examples=[
        "tinkex checkpoint delete PATH",
        "tinkex checkpoint delete --older-than 7d --dry-run",
        "tinkex checkpoint delete --run RUN --keep-last 3 --yes",
    ],
    id_field="path",
)
@click.argument("paths", nargs=-1, metavar="[PATH]...", shell_complete=complete.paths)
@click.option(
    "--run",
    "--run-id",
    "run_id",
    metavar="RUN",
    shell_complete=complete.runs,
    help="Those of a training run.",
)
@click.option("--type", "kind", type=click.Choice(KINDS), help="Those of a kind.")
@click.option("--older-than", type=Duration(), help="Those saved longer ago: 12h, 7d.")
@click.option("--before", type=Time(), help="Those saved before a date or time.")
@click.option("--after", type=Time(), help="Those saved after a date or time.")
@click.option(
    "--keep-last",
    type=click.IntRange(min=0),
    help="Keep so many of the newest, of each run and kind.",
)
@click.option(
    "--keep-best",
    type=click.IntRange(min=0),
    help="Keep so many of the best by --metric, of each run and kind.",
)
@click.option(
    "--metric",
    help="Name of a number in the checkpoints' user_metadata, such as loss; the lowest is best.",
)
@click.option("--highest", is_flag=True, help="With --metric: the highest is best.")
@click.option("--dry-run", is_flag=True, help="Show what would be deleted, and delete nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@connection_options
def command(
    output: Output,
    connection: Connection,
    paths: tuple[str, ...],
    run_id: str | None,
    older_than: int | None,
    before: datetime | None,
    dry_run: bool,
    yes: bool,
    **conditions: Any,
) -> None:
    """Deletes checkpoints."""
    if older_than is not None:
        moment = datetime.now(UTC) - timedelta(seconds=older_than)
        before = min(before, moment) if before else moment
    selection = Selection(before=before, **conditions)
    _check(paths, run_id, selection)
    rest = connection.rest
    chosen = _named(rest, paths) if paths else _selected(output, rest, run_id, selection)
    if not chosen:
        output.table([])
        output.status("No checkpoint meets the conditions.")
        return
    what = _described(chosen)
    if dry_run:
        output.table([_result(row, deleted=False) for row in chosen])
        output.status(f"Would delete {what}.")
        return
    output.confirm(f"Delete {what} permanently?", _listing(chosen), yes=yes)
    _delete(output, rest, chosen)


def _check(paths: Sequence[str], run_id: str | None, selection: Selection) -> None:
    conditions = run_id is not None or selection != Selection()
    if bool(paths) == conditions:
        raise click.UsageError(
            "give paths or conditions, and not both"
            if paths
            else "give the paths to delete, or conditions such as --run RUN or --older-than 7d"
        )
    if (selection.keep_best is None) != (selection.metric is None):
        raise click.UsageError("--keep-best and --metric belong together")
    if selection.highest and selection.metric is None:
        raise click.UsageError("--highest belongs to --metric")


def _named(rest: RestClient, paths: Sequence[str]) -> list[Row]:
    """Returns the rows of the given paths. All are looked for before anything is deleted."""
    from tinkex.cli.checkpoint.lookup import listed_in_run
    from tinkex.cli.suggestions import not_found
    from tinkex.types.checkpoint_path import CheckpointAddress

    runs = dict.fromkeys(CheckpointAddress.from_path(path).training_run_id for path in paths)
    listed = {run: listed_in_run(rest, run) for run in runs}
    known = {one.tinker_path: row_of(one) for found in listed.values() for one in found or []}
    rows: list[Row] = []
    for path in dict.fromkeys(paths):
        run = CheckpointAddress.from_path(path).training_run_id
        if path not in known and listed[run] is not None:
            raise not_found("checkpoint", path, known, f"tinkex checkpoint list --run {run}")
        rows.append(known.get(path, {"path": path, "size_bytes": None}))
    return rows


def _selected(
    output: Output, rest: RestClient, run_id: str | None, selection: Selection
) -> list[Row]:
    found = rest.iter_user_checkpoints() if run_id is None else _of_run(rest, run_id)
    rows = [row_of(one) for one in found]
    if unrated := selection.unrated(rows):
        output.warn(
            f"{unrated} checkpoints have no number {selection.metric!r} in their user_metadata, "
            "and are kept"
        )
    return selection.taken(rows)


def _of_run(rest: RestClient, run_id: str) -> list[Any]:
    from tinkex.cli.run.lookup import suggesting_runs

    with suggesting_runs(rest, run_id):
        return list(rest.list_checkpoints(run_id).checkpoints)


def _delete(output: Output, rest: RestClient, rows: Sequence[Row]) -> None:
    from tinkex.errors import TinkexError

    results: list[Row] = []
    for row in rows:
        try:
            rest.delete_checkpoint_from_tinker_path(row["path"])
        except TinkexError as error:
            if len(rows) == 1:
                raise
            results.append(_result(row, deleted=False, error=error.message))
        else:
            results.append(_result(row, deleted=True))
    output.table(results)
    gone = [row for row in results if row["deleted"]]
    freed = _bytes(gone)
    output.status(f"Deleted {_number(len(gone))}; {size(freed)} freed.")
    if len(gone) < len(rows):
        output.warn(f"{_number(len(rows) - len(gone))} could not be deleted")
        click.get_current_context().exit(ExitCode.FAILED)


def _result(row: Row, *, deleted: bool, error: str | None = None) -> Row:
    return {
        "path": row["path"],
        "size_bytes": row["size_bytes"],
        "deleted": deleted,
        "error": error,
    }


def _described(rows: Sequence[Row]) -> str:
    unknown = sum(row["size_bytes"] is None for row in rows)
    more = f" and {unknown} of unknown size" if unknown else ""
    return f"{_number(len(rows))} ({size(_bytes(rows))}{more})"


def _listing(rows: Sequence[Row]) -> str:
    """Returns the first paths, each in a line."""
    lines = [f"  {row['path']}" for row in rows[:_NAMED]]
    more = len(rows) - _NAMED
    return "\n".join([*lines, *([f"  and {more} more"] if more > 0 else [])])


def _bytes(rows: Sequence[Row]) -> Size:
    return Size(sum(row["size_bytes"] or 0 for row in rows))


def _number(count: int) -> str:
    return "1 checkpoint" if count == 1 else f"{count} checkpoints"

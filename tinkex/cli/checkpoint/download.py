"""The command `tinkex checkpoint download`."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import click

from tinkex.cli import complete
from tinkex.cli.command import command as data_command
from tinkex.cli.connection import Connection, connection_options
from tinkex.cli.embedded import choose_server
from tinkex.cli.exit_codes import ExitCode
from tinkex.cli.failures import Failure, again_with
from tinkex.cli.output import Output, Size


@data_command(
    "download",
    help="Download a checkpoint to a new folder, whole or not at all.",
    fields=("path", "folder", "files", "size_bytes"),
    examples=[
        "tinkex checkpoint download PATH",
        "tinkex checkpoint download PATH -o checkpoints --force",
    ],
    id_field="folder",
)
@click.argument("path", shell_complete=complete.paths)
@click.option(
    "-o",
    "--output",
    "parent",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Parent of the new folder.  [default: this folder]",
)
@click.option("--force", is_flag=True, help="Replace the folder if it exists.")
@connection_options
def command(output: Output, connection: Connection, path: str, parent: Path, force: bool) -> None:
    """Downloads a checkpoint."""
    from tinkex.cli.checkpoint.export import with_files
    from tinkex.cli.checkpoint.lookup import suggesting_paths
    from tinkex.cli.process import user_data_folder
    from tinkex.cli.progress import transfer
    from tinkex.downloads.download import folder_name

    target = parent / folder_name(path)
    if target.exists() and not force:
        raise Failure(f"{target} exists already", code=ExitCode.USAGE, hint=again_with("--force"))

    if user_data_folder().exists():  # what `tinkex train` has saved on this machine
        choose_server(output, connection, "gives out what was saved", keeps=True)

    def download(source: str) -> Path:
        with transfer(output, "Downloading") as progress:
            return connection.rest.download_checkpoint(
                source, output_dir=parent, force=force, progress=progress
            )

    with suggesting_paths(connection.rest, path):
        folder = with_files(output, connection, path, download)
    if folder != target:  # that of an export
        shutil.rmtree(target, ignore_errors=True)
        folder = folder.rename(target)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    output.record(
        {
            "path": path,
            "folder": str(folder),
            "files": [str(file.relative_to(folder)) for file in files],
            "size_bytes": Size(sum(file.stat().st_size for file in files)),
        }
    )
    output.hint(f"tinkex sample -m {shlex.quote(path)} 'Hello'")

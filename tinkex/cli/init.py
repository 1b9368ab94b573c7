"""The command `tinkex init`, which writes a short script and its data, to begin with."""

from __future__ import annotations

import shlex
from importlib import resources
from pathlib import Path

import click

from tinkex.cli.command import command as data_command
from tinkex.cli.exit_codes import ExitCode
from tinkex.cli.failures import Failure
from tinkex.cli.output import Output

_FILES = {"train.py": "train.py.txt", "data.jsonl": "data.jsonl"}
"""The files that are written, and their names in the package."""


@data_command(
    "init",
    help=(
        "Write a script that fine-tunes and samples, and its data. Both run as they are, on "
        "TINKER_BASE_URL or else on an embedded server."
    ),
    fields=("file", "lines"),
    examples=["tinkex init", "tinkex init my-model"],
    id_field="file",
)
@click.argument(
    "folder", default=".", type=click.Path(path_type=Path, file_okay=False), required=False
)
def command(output: Output, folder: Path) -> None:
    """Writes the files; overwrites none."""
    if there := [name for name in _FILES if (folder / name).exists()]:
        raise Failure(
            f"{folder / there[0]} exists already; nothing was written",
            code=ExitCode.USAGE,
            hint="tinkex init my-model",
        )
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    for name, source in _FILES.items():
        text = (resources.files("tinkex.cli") / "starter" / source).read_text("utf-8")
        (folder / name).write_text(text, "utf-8")
        rows.append({"file": str(folder / name), "lines": len(text.splitlines())})
    output.table(rows)
    enter = "" if folder == Path() else f"cd {shlex.quote(str(folder))} && "
    output.hint(f"{enter}python train.py")

"""The command `tinkex checkpoint info`."""

from __future__ import annotations

import click

from tinkex.cli import complete
from tinkex.cli.checkpoint.rows import FIELDS, row_of
from tinkex.cli.command import command as data_command
from tinkex.cli.connection import Connection, connection_options
from tinkex.cli.output import Output

_WEIGHTS = ("lora_rank", "train_mlp", "train_attn", "train_unembed")


@data_command(
    "info",
    help="Show one checkpoint: its size, its access and its LoRA shape.",
    fields=(*FIELDS, *_WEIGHTS),
    examples=["tinkex checkpoint info PATH", "tinkex checkpoint info PATH --json=model,lora_rank"],
    id_field="path",
)
@click.argument("path", shell_complete=complete.paths)
@connection_options
def command(output: Output, connection: Connection, path: str) -> None:
    """Shows a checkpoint."""
    from tinkex.cli.checkpoint.lookup import find, suggesting_paths
    from tinkex.types.checkpoint_path import CheckpointAddress

    address = CheckpointAddress.from_path(path)
    rest = connection.rest
    with suggesting_paths(rest, path):
        weights = rest.get_weights_info_by_tinker_path(path)
    listed = find(rest, path)
    unlisted = {"path": path, "run": address.training_run_id, "kind": address.kind}
    row = {
        **dict.fromkeys(FIELDS),
        **(row_of(listed) if listed else {**unlisted, "name": address.name, "user_metadata": {}}),
    }
    shape = {name: getattr(weights, name) for name in _WEIGHTS}
    output.record({**row, "model": weights.base_model, **shape})

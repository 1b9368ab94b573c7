"""The command `tinkex checkpoint push-hf`."""

from __future__ import annotations

import click

from tinkex.cli import complete
from tinkex.cli.command import command as data_command
from tinkex.cli.connection import Connection, connection_options
from tinkex.cli.output import Output


@data_command(
    "push-hf",
    help="Upload a checkpoint to the Hugging Face hub.",
    fields=("path", "repo", "url"),
    examples=[
        "tinkex checkpoint push-hf PATH --repo OWNER/NAME",
        "tinkex checkpoint push-hf PATH --repo OWNER/NAME --public --create-pr",
    ],
    id_field="url",
)
@click.argument("path", shell_complete=complete.paths)
@click.option(
    "-r",
    "--repo",
    metavar="OWNER/NAME",
    help="Repository; created where it does not exist.  [default: named after the checkpoint, of "
    "the user of the hub's token]",
)
@click.option("--public", is_flag=True, help="Make a repository that is created public.")
@click.option("--revision", help="Branch; created where it does not exist.")
@click.option("--commit-message", help="Message of the commit.")
@click.option("--create-pr", is_flag=True, help="Open a pull request.")
@click.option("--allow-pattern", multiple=True, help="Files to upload; repeatable.")
@click.option("--ignore-pattern", multiple=True, help="Files to leave out; repeatable.")
@click.option("--no-model-card", is_flag=True, help="Do not write a README.md.")
@connection_options
def command(
    output: Output,
    connection: Connection,
    path: str,
    repo: str | None,
    public: bool,
    revision: str | None,
    commit_message: str | None,
    create_pr: bool,
    allow_pattern: tuple[str, ...],
    ignore_pattern: tuple[str, ...],
    no_model_card: bool,
) -> None:
    """Uploads a checkpoint to the hub."""
    from httpx import TransportError
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    from tinkex.cli.checkpoint.export import with_files
    from tinkex.cli.checkpoint.lookup import suggesting_paths
    from tinkex.cli.progress import transfer

    try:
        target = repo or _default_repo(path)

        def push(source: str) -> str:
            with transfer(output, "Downloading") as progress:
                return connection.rest.push_to_hub(
                    source,
                    target,
                    private=not public,
                    revision=revision,
                    commit_message=commit_message,
                    create_pr=create_pr,
                    allow_patterns=allow_pattern or None,
                    ignore_patterns=ignore_pattern or None,
                    model_card=not no_model_card,
                    progress=progress,
                )

        with suggesting_paths(connection.rest, path):
            url = with_files(output, connection, path, push)
    except LocalTokenNotFoundError as error:
        raise _no_token() from error
    except HfHubHTTPError as error:
        raise _refused(error) from error
    except TransportError as error:
        raise _unreachable(error) from error
    output.record({"path": path, "repo": target, "url": str(url)})


def _default_repo(path: str) -> str:
    """Returns the repository of the user of the hub's token that is named after the checkpoint."""
    import huggingface_hub

    from tinkex.downloads.download import folder_name

    user = huggingface_hub.HfApi().whoami()["name"]  # pyright: ignore
    return f"{user}/tinker-{folder_name(path).strip('._-')}"[:96]


def _no_token() -> Exception:
    from tinkex.cli.exit_codes import ExitCode
    from tinkex.cli.failures import Failure

    return Failure(
        "there is no token of the Hugging Face hub", code=ExitCode.AUTH, hint="hf auth login"
    )


def _unreachable(error: Exception) -> Exception:
    from tinkex.cli.exit_codes import ExitCode
    from tinkex.cli.failures import Failure

    return Failure(
        f"the Hugging Face hub cannot be reached: {error}", code=ExitCode.UNREACHABLE, hint="hf env"
    )


def _refused(error: Exception) -> Exception:
    from tinkex.cli.exit_codes import ExitCode
    from tinkex.cli.failures import Failure

    status = getattr(getattr(error, "response", None), "status_code", None)
    is_auth = status in (401, 403)
    return Failure(
        f"the Hugging Face hub refuses the upload: {str(error).strip().splitlines()[0]}",
        code=ExitCode.AUTH if is_auth else ExitCode.FAILED,
        hint="hf auth login" if is_auth else None,
        request_id=getattr(error, "request_id", None),
    )

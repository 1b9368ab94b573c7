"""A whole job by the official SDK, run by scripts/test_clients.py and scripts/test_bridge.py in a
venv that has it: `official_job.py URL PARTS`. Raises when a step fails.

The named parts are left out, for a server that lacks what they need.

It trains, saves, samples and resumes, then does over REST and by the command line what its release
can do there. An old release lacks some of it: what a release lacks is skipped, and what it has must
work.
"""

import io
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
import warnings
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import tinker
import torch
from ending import end
from tinker import types
from tinker.cli.__main__ import cli

warnings.simplefilter("ignore")  # the deprecations of the SDK itself
KEY = "tml-local"
TEXT = list(b"forty two is 42\n")
DATUM = types.Datum(
    model_input=types.ModelInput.from_ints(TEXT[:-1]),
    loss_fn_inputs={"target_tokens": TEXT[1:], "weights": [1.0] * (len(TEXT) - 1)},
)
FILES = {"adapter_config.json", "adapter_model.safetensors"}

WITHOUT = frozenset(sys.argv[2:])
"""The parts that are left out."""

FOLLOWS_REDIRECTS = tinker.__version__.startswith("0.22.")
"""Its transport follows the one to an archive, which the client then takes for the answer: so it is
with every server.
"""


def ready(client):
    """Returns the client; newer releases give a future of it."""
    return client.result(60) if hasattr(client, "result") else client


def train(trainer):
    """Returns the first and the last loss."""
    losses = []
    for _ in range(8):
        gradients = trainer.forward_backward([DATUM] * 4, "cross_entropy")
        update = trainer.optim_step(types.AdamParams(learning_rate=5e-3))
        losses.append(gradients.result(60).metrics["loss:sum"])
        update.result(60)
    assert losses[-1] < losses[0] / 10, losses
    return losses[0], losses[-1]


def learn_from_samples(trainer):
    """Checks the loss of a policy that has not changed since it sampled: minus the sum of its
    advantages.
    """
    output = trainer.forward([DATUM], "cross_entropy").result(60).loss_fn_outputs[0]
    inputs = {
        "target_tokens": TEXT[1:],
        "logprobs": output["logprobs"].tolist(),
        "advantages": [0.5] * (len(TEXT) - 1),
    }
    datum = types.Datum(model_input=DATUM.model_input, loss_fn_inputs=inputs)
    loss = trainer.forward([datum], "importance_sampling").result(60).metrics["loss:sum"]
    assert abs(loss + 0.5 * (len(TEXT) - 1)) < 1e-3, loss


def custom_losses(service, trainer):
    """Checks that a custom loss, computed here and, by releases that can, on the server, equals
    cross-entropy.
    """
    expected = trainer.forward([DATUM], "cross_entropy").result(60).metrics["loss:sum"]

    def here(data, logprobs):
        loss = -sum(row.sum() for row in logprobs)
        return loss, {"mine": float(loss)}

    assert (
        abs(trainer.forward_backward_custom([DATUM], here).result(60).metrics["mine"] - expected)
        < 1e-3
    )
    if not hasattr(service, "create_custom_loss"):
        return

    def there(logprobs, weights):
        loss = -torch.sum(logprobs * weights)
        return loss, {"custom/mine:sum": loss}

    handle = service.create_custom_loss(there, {"logprobs": 1, "weights": 1}).result(60)
    metrics = trainer.forward_backward_custom([DATUM], handle).result(60).metrics
    assert abs(metrics["custom/mine:sum"] - expected) < 1e-3, metrics


def sample(trainer):
    sampler = ready(trainer.save_weights_and_get_sampling_client())
    prompt = types.ModelInput.from_ints(TEXT[:12])
    temperature = 1.0 if "greedy" in WITHOUT else 0.0
    params = types.SamplingParams(max_tokens=3, temperature=temperature)
    sampled = sampler.sample(prompt, 1, params).result(60)
    tokens = list(sampled.sequences[0].tokens)
    assert tokens == TEXT[12:15] or (temperature and len(tokens) == 3), sampled
    if "prompt_logprobs" not in WITHOUT:
        assert len(sampler.compute_logprobs(prompt).result(60)) == 12


def resume(service, path, expected):
    resumed = ready(service.create_training_client_from_state_with_optimizer(path))
    loss = resumed.forward_backward([DATUM], "cross_entropy").result(60).metrics["loss:sum"]
    assert abs(loss - expected) < 1e-3, (loss, expected)


def rest(service, trainer, path):
    client, run_id = service.create_rest_client(), trainer.model_id
    session_id = run_id.partition(":")[0]
    assert run_id in client.get_session(session_id).result(60).training_run_ids
    assert session_id in client.list_sessions().result(60).sessions
    assert client.get_training_run(run_id).result(60).last_checkpoint.tinker_path == path
    assert run_id in [
        run.training_run_id for run in client.list_training_runs().result(60).training_runs
    ]
    assert path in [
        checkpoint.tinker_path
        for checkpoint in client.list_checkpoints(run_id).result(60).checkpoints
    ]
    assert path in [
        checkpoint.tinker_path
        for checkpoint in client.list_user_checkpoints().result(60).checkpoints
    ]
    assert client.get_weights_info_by_tinker_path(path).result(60).lora_rank == 8
    if "publish_checkpoint" not in WITHOUT:
        client.publish_checkpoint_from_tinker_path(path).result(60)
        assert client.list_checkpoints(run_id).result(60).checkpoints[0].public
        client.unpublish_checkpoint_from_tinker_path(path).result(60)
    sampler_path = trainer.save_weights_for_sampler("to-sample").result(60).path
    if not WITHOUT & {"saved_samplers", "sample"}:
        sampler = ready(service.create_sampling_client(model_path=sampler_path))
        assert (
            sampler.sample(DATUM.model_input, 1, types.SamplingParams(max_tokens=1))
            .result(60)
            .sequences
        )
    newer_rest(client, session_id, path)
    archive(client, path)
    if "delete_checkpoint" not in WITHOUT:
        client.delete_checkpoint_from_tinker_path(sampler_path).result(60)


def newer_rest(client, session_id, path):
    """Tries what was added release by release."""
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    has_ttl = "set_checkpoint_ttl" not in WITHOUT
    if has_ttl and hasattr(client, "set_checkpoint_ttl_from_tinker_path"):
        client.set_checkpoint_ttl_from_tinker_path(path, 7200).result(60)
        client.set_checkpoint_ttl_from_tinker_path(path, None).result(60)
    if hasattr(client, "assign_session_project"):
        client.assign_session_project(session_id, "proj-official").result(60)
    if hasattr(client, "get_audit_log"):
        events = [entry.event for entry in client.get_audit_log("checkpoints").result(60).entries]
        assert "checkpoint.saved" in events, events
    if hasattr(client, "get_billing_usage"):
        usage = client.get_billing_usage(now - timedelta(hours=1), now + timedelta(hours=1)).result(
            60
        )
        used = {"training", "sampling_sample", "checkpoint"} - (
            {"sampling_sample"} if "sample" in WITHOUT else set()
        )
        assert used <= {event.event_info.type for event in usage.data}
    has_sizes = "sizes" not in WITHOUT
    if has_sizes and hasattr(client, "get_current_checkpoint_storage_usage"):
        assert client.get_current_checkpoint_storage_usage().result(60).data[0].size_bytes > 0
    if hasattr(client, "export_session_trace"):
        with urllib.request.urlopen(client.export_session_trace(session_id).result(60)) as answer:
            assert json.load(answer)["traceEvents"]
    if hasattr(client, "search_sessions"):
        found = client.search_sessions(
            types.SessionSearchRequest(project_ids=["proj-official"], limit=200)
        ).result(60)
        assert session_id in [session.session_id for session in found.sessions]
    if "copy_weights" not in WITHOUT and hasattr(client, "copy_weights"):
        copied = client.copy_weights(path, "proj-official").result(60)
        assert client.get_weights_info_by_tinker_path(copied).result(60).lora_rank == 8


def archive(client, path):
    if "get_checkpoint_archive_url" in WITHOUT:
        return
    if hasattr(client, "get_checkpoint_archive_url_from_tinker_path") and not FOLLOWS_REDIRECTS:
        url = client.get_checkpoint_archive_url_from_tinker_path(path).result(60)
        with urllib.request.urlopen(url.url) as answer:
            assert len(answer.read()) == int(answer.headers["Content-Length"])


def external_weights(service, trainer):
    if "save_weights_external" in WITHOUT or not hasattr(trainer, "save_weights_external"):
        return
    path = trainer.save_weights_external("for-others").result(60).path
    urls = service.create_rest_client().get_external_weights_urls(path).result(60).urls
    assert set(urls) == FILES, urls
    for url in urls.values():
        with urllib.request.urlopen(url) as answer:
            assert answer.read(1)


def command(*words):
    """Runs the command `tinker` in this process and returns its output."""
    printed, code = io.StringIO(), 0
    with (
        redirect_stdout(printed),
        redirect_stderr(printed),
        patch.object(sys, "argv", ["tinker", *words]),
    ):
        try:
            cli()
        except SystemExit as end:
            code = end.code
    assert not code, (words, code, printed.getvalue())
    return printed.getvalue()


def by_command(run_id, path, base_url):
    os.environ.update(TINKER_BASE_URL=base_url, TINKER_API_KEY=KEY)
    if "program" not in WITHOUT:
        program = Path(sys.executable).with_name("tinker")
        started = subprocess.run(
            [program, "-f", "json", "run", "list"], capture_output=True, text=True
        )
        # it can crash after it has printed all: ending.py
        assert started.returncode <= 0, (started.returncode, started.stderr)
        assert any(run["training_run_id"] == run_id for run in json.loads(started.stdout)["runs"])
    assert run_id in command("-f", "json", "run", "list")
    commands = command("--help").partition("Commands:")[2].split()
    assert tinker.__version__ in command("version")
    assert "tinkex/tiny" in command("-f", "json", "run", "info", run_id)
    assert path in command("-f", "json", "checkpoint", "list", "--run-id", run_id)
    assert path in command("-f", "json", "checkpoint", "info", path)
    if "publish_checkpoint" not in WITHOUT:
        command("checkpoint", "publish", path)
        command("checkpoint", "unpublish", path)
    # newer releases download what save_weights_external saves
    if not FOLLOWS_REDIRECTS and not WITHOUT & {
        "get_checkpoint_archive_url",
        "save_weights_external",
    }:
        with tempfile.TemporaryDirectory() as folder:
            command("checkpoint", "download", path, "--output", folder)
            assert {file.name for file in Path(folder).rglob("*") if file.is_file()} >= FILES
    if "model" in commands and "model_list" not in WITHOUT:
        assert "tinkex/tiny" in command("model", "list")
    if "billing" in commands:
        now, one = datetime.now(UTC).replace(minute=0, second=0, microsecond=0), timedelta(hours=1)
        hours = [hour.strftime("%Y-%m-%dT%H:00:00Z") for hour in (now - one, now + one)]
        assert "training" in command("-f", "json", "billing", "usage", *hours)
    if "session" in commands:
        assert "/trace?" in command(
            "session", "export-trace", run_id.partition(":")[0], "--url-only"
        )
    if "delete_checkpoint" in WITHOUT:
        return
    # 0.18 has both ways, but cannot do it by path
    by_run = "--run-id" in command("checkpoint", "delete", "--help")
    command("checkpoint", "delete", "--yes", *(("--run-id", run_id) if by_run else (path,)))
    assert path not in command("-f", "json", "checkpoint", "list", "--run-id", run_id)


def main() -> None:
    base_url = sys.argv[1]
    service = tinker.ServiceClient(base_url=base_url, api_key=KEY)
    trainer = ready(service.create_lora_training_client("tinkex/tiny", rank=8))
    first, last = train(trainer)
    if "ratio_losses" not in WITHOUT:
        learn_from_samples(trainer)
    custom_losses(service, trainer)
    trained = trainer.forward([DATUM], "cross_entropy").result(60).metrics["loss:sum"]
    path = trainer.save_state("one").result(60).path
    if "sample" not in WITHOUT:
        sample(trainer)
    if "resume" not in WITHOUT:
        resume(service, path, trained)
    rest(service, trainer, path)
    external_weights(service, trainer)
    by_command(trainer.model_id, path, base_url)
    print(
        f"tinker {tinker.__version__}: loss {first:.1f} -> {last:.3f}, custom losses, samples, "
        "saved and resumed, REST, commands"
        + (f"; without {', '.join(sorted(WITHOUT))}" if WITHOUT else "")
    )


if __name__ == "__main__":
    main()
    end(0)

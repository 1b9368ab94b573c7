"""Samples for a dataset of prompts on a Ray cluster, killed in the middle and resumed: each prompt
has one result in the end.

Starts a server with the fake engine, and the run as a process of its own, which is killed with
SIGKILL when a part of the results is there, and started again. Results are lines of a file. A run
begins with the prompts that have no line yet.

    pip install 'tinkex[local,ray]'
    python examples/ray_dataset.py --prompts 10000
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# before ray is imported: nothing is reported to anybody, and the cluster listens here alone
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

BASE = "fake/base"


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--prompts", type=int, default=10_000)
    arguments.add_argument("--run", nargs=2, metavar=("URL", "FILE"), help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.run:
        run(given.run[0], Path(given.run[1]), given.prompts)
    else:
        run_twice(given.prompts)


def run_twice(count: int) -> None:
    """Kills the first run when a third of the results is there."""
    import tinkex.local

    with (
        tempfile.TemporaryDirectory() as folder,
        tinkex.local.serve(BASE, engine="fake") as server,
    ):
        file = Path(folder) / "results.jsonl"
        command = [sys.executable, __file__, "--prompts", str(count), "--run", server.base_url]
        environment = {**os.environ, "TINKER_API_KEY": "tml-example"}
        killed = subprocess.Popen([*command, str(file)], env=environment)
        while lines(file) < count // 3:
            if killed.poll() is not None:
                sys.exit("the run ended before it was killed")
            time.sleep(0.01)  # between two looks at the file
        killed.kill()
        killed.wait()
        print(f"killed with {lines(file)} of {count} results", flush=True)
        subprocess.run([*command, str(file)], env=environment, check=True)
        numbers = [json.loads(line)["id"] for line in file.read_text().splitlines()]
    twice, lost = len(numbers) - len(set(numbers)), count - len(set(numbers))
    print(f"{len(numbers)} results: {twice} prompts twice, {lost} lost")
    sys.exit(1 if twice or lost else 0)


def run(base_url: str, file: Path, count: int) -> None:
    """Samples for the prompts that have no result in the file."""
    import ray
    from ray import data

    import tinkex.ray
    from tinkex import ServiceClient

    done = finished(file)
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    data.DataContext.get_current().enable_progress_bars = False
    left = [{"id": n, "prompt": list(b"%d" % n)} for n in range(count) if n not in done]
    if not left:
        return
    with ServiceClient(base_url) as service, file.open("a") as results:
        sampler = service.create_sampling_client(base_model=BASE)
        ds = data.from_items(left, override_num_blocks=max(1, len(left) // 100))
        sampled = tinkex.ray.sample_dataset(ds, sampler, params={"max_tokens": 8}, workers=2)
        for batch in sampled.iter_batches(batch_size=32, batch_format="pyarrow"):
            for row in batch.to_pylist():
                results.write(json.dumps({"id": row["id"], "tokens": row["tokens"]}) + "\n")
            results.flush()


def finished(file: Path) -> set[int]:
    """Returns the ids that have a result, and removes a line that was only begun."""
    if not file.exists():
        return set()
    text = file.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        file.write_text(whole)
    return {json.loads(line)["id"] for line in whole.splitlines()}


def lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


if __name__ == "__main__":
    main()

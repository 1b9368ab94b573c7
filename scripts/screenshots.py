"""Pictures of the embedded server's pages, made by Chromium: `make pictures`, or `python
scripts/screenshots.py FOLDER`.

They show a server on which a few short runs have been trained and one still trains. With `--all`
every page is shown, light, dark and narrow; otherwise the two pictures of the documentation.
"""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

import tinkex.local
from tinkex import AdamParams, Datum, ModelInput, ServiceClient, TinkexError

_SENTENCES = ("forty two is 42\n", "seven is 7\n", "a hundred and three is 103\n")
_RUNS = (
    ({"name": "numbers, rank 8", "recipe": "sft", "lr": "3e-3"}, 8, 40),
    ({"name": "numbers, rank 32", "recipe": "sft", "lr": "3e-3"}, 32, 25),
    ({"name": "distil from 32", "recipe": "distill", "lr": "1e-3"}, 16, 12),
)
_WIDE, _NARROW = {"width": 1280, "height": 860}, {"width": 420, "height": 1400}
_WAYS: Mapping[str, Mapping[str, Any]] = {
    "light": {"viewport": _WIDE, "color_scheme": "light"},
    "dark": {"viewport": _WIDE, "color_scheme": "dark"},
    "narrow": {"viewport": _NARROW, "color_scheme": "light"},
}


@contextmanager
def busy_server() -> Iterator[tuple[str, str]]:
    """Yields the address of a server that trains, and the id of the run that it trains."""
    stop = threading.Event()
    with tinkex.local.serve() as server:
        for metadata, rank, steps in _RUNS:
            with ServiceClient(server.base_url, "tml-local", user_metadata=metadata) as service:
                _train(service, rank, steps)
        metadata = {"name": "numbers, reward", "recipe": "rl", "lr": "1e-3"}
        with ServiceClient(server.base_url, "tml-local", user_metadata=metadata) as service:
            trainer, batch = _train(service, 16, 18)
            _fail(trainer, batch)
            run_id = trainer.model_id
            training = threading.Thread(target=_go_on, args=(trainer, batch, stop))
            training.start()
            try:
                yield server.base_url, run_id
            finally:
                stop.set()
                training.join()


def _train(service: ServiceClient, rank: int, steps: int) -> tuple[Any, list[Datum]]:
    trainer = service.create_lora_training_client("tinkex/tiny", rank=rank)
    batch = [_datum(trainer.get_tokenizer().encode(sentence)) for sentence in _SENTENCES]
    for step in range(steps):
        _step(trainer, batch, 3e-3)
        trainer.add_metrics({"reward": 1 - 0.9 ** (step + 1)})
    trainer.save_state("last").result()
    trainer.save_weights_for_sampler("last").result()
    return trainer, batch


def _step(trainer: Any, batch: list[Datum], learning_rate: float) -> None:
    trainer.forward_backward(batch, "cross_entropy")
    trainer.optim_step(AdamParams(learning_rate=learning_rate)).result()


def _fail(trainer: Any, batch: list[Datum]) -> None:
    try:
        trainer.forward_backward(batch, "cross_entropie").result()
    except TinkexError as error:
        print(f"as meant: {error}")


def _go_on(trainer: Any, batch: list[Datum], stop: threading.Event) -> None:
    while not stop.wait(0.2):
        _step(trainer, batch * 8, 1e-3)


def _datum(tokens: list[int]) -> Datum:
    return Datum(
        model_input=ModelInput.from_ints(tokens[:-1]), loss_fn_inputs={"target_tokens": tokens[1:]}
    )


def photograph(page: Any, url: str, file: Path) -> None:
    page.goto(url)
    if page.url.endswith("/playground"):
        page.get_by_label("Prompt").fill("a hundred and three is")
        page.get_by_label("Compare with").select_option(index=3)
        page.get_by_label("Most tokens").fill("24")
        page.get_by_role("button", name="Sample").click()
        page.locator("#start:not([disabled])").wait_for()
        page.locator("#answer-2 .token").nth(2).hover()
    page.wait_for_timeout(1500)  # for the first live values
    page.screenshot(path=file)
    print(file)


def main(folder: Path, *, every: bool) -> None:
    chromium = shutil.which("chromium") or sys.exit(
        "this needs Chromium (on Debian: apt-get install chromium)"
    )
    folder.mkdir(parents=True, exist_ok=True)
    with busy_server() as (base_url, run_id), sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        pages = {
            "status": "/",
            "run": f"/runs/{run_id}",
            "playground": "/playground",
            "failures": "/failures",
            "sessions": "/sessions",
            "docs": "/docs",
        }
        shown = (
            {f"{name}_{way}": (name, way) for name in pages for way in _WAYS}
            if every
            else {"status": ("status", "light"), "run_dark": ("run", "dark")}
        )
        for file, (name, way) in shown.items():
            page = browser.new_page(**_WAYS[way])
            photograph(page, base_url + pages[name], folder / f"{file}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), every="--all" in sys.argv)

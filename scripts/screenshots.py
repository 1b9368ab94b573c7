"""Pictures of the embedded server's pages, made by Chromium: `python scripts/screenshots.py
FOLDER`.

Each is made light, dark and narrow, of a server on which a few short runs have just been trained.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import tinkex.local
from tinkex import AdamParams, Datum, ModelInput, ServiceClient

_SENTENCES = ("forty two is 42\n", "seven is 7\n", "a hundred and three is 103\n")
_WAYS = {
    "light": ("--window-size=1280,950", "--blink-settings=preferredColorScheme=1"),
    "dark": ("--window-size=1280,950", "--blink-settings=preferredColorScheme=0"),
    "narrow": ("--window-size=500,1600", "--blink-settings=preferredColorScheme=1"),
}


def train(base_url: str) -> None:
    """Trains two runs and saves checkpoints."""
    for rank, steps in ((8, 40), (32, 25)):
        with ServiceClient(base_url, "tml-local", user_metadata={"from": "screenshots"}) as service:
            _run(service, rank, steps)


def _run(service: ServiceClient, rank: int, steps: int) -> None:
    trainer = service.create_lora_training_client("tinkex/tiny", rank=rank)
    batch = [_datum(trainer.get_tokenizer().encode(sentence)) for sentence in _SENTENCES]
    for _ in range(steps):
        trainer.forward_backward(batch, "cross_entropy")
        trainer.optim_step(AdamParams(learning_rate=3e-3)).result()
    trainer.save_state("last").result()
    trainer.save_weights_for_sampler("last").result()


def _datum(tokens: list[int]) -> Datum:
    return Datum(
        model_input=ModelInput.from_ints(tokens[:-1]), loss_fn_inputs={"target_tokens": tokens[1:]}
    )


def photograph(url: str, file: Path, options: tuple[str, ...]) -> None:
    browser = shutil.which("chromium") or sys.exit(
        "this needs Chromium (on Debian: apt-get install chromium)"
    )
    subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--hide-scrollbars",
            f"--screenshot={file}",
            *options,
            url,
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tinkex.local.serve() as server:
        train(server.base_url)
        for page in ("", "docs"):
            for way, options in _WAYS.items():
                file = folder / f"{page or 'status'}-{way}.png"
                photograph(f"{server.base_url}/{page}", file, options)
                print(file)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

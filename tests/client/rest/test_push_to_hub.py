"""A checkpoint goes to the hub with a card; the hub itself is played by a fake that keeps what it
was given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field, frozen
from huggingface_hub import ModelCard

from tests.support.answering_server import Answer, answering
from tests.support.archives import tar_of
from tests.support.file_store import PATH
from tinkex import Dialect
from tinkex.rest.hub import model_card

ADAPTER = b'{"base_model_name_or_path": "meta-llama/Llama-3.1-8B", "r": 16}'


@frozen
class Commit:
    commit_url: str
    pr_url: str | None


@define
class Hub:
    """Stands for huggingface_hub.HfApi."""

    tokens: list[str | None] = field(factory=list)
    calls: list[tuple[str, dict[str, Any]]] = field(factory=list)
    files: dict[str, bytes] = field(factory=dict)

    def __call__(self, token: str | None = None) -> Hub:
        self.tokens.append(token)
        return self

    def create_repo(self, repo_id: str, **how: Any) -> None:
        self.calls.append(("create_repo", {"repo_id": repo_id, **how}))

    def create_branch(self, repo_id: str, **how: Any) -> None:
        self.calls.append(("create_branch", {"repo_id": repo_id, **how}))

    def upload_folder(self, *, folder_path: Path, create_pr: bool, **how: Any) -> Commit:
        self.calls.append(("upload_folder", how))
        self.files = {path.name: path.read_bytes() for path in folder_path.iterdir()}
        return Commit("https://hub/commit", "https://hub/pr" if create_pr else None)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", hub)
    return hub


@pytest.fixture
def archive() -> dict[str, bytes]:
    return {"adapter_config.json": ADAPTER, "adapter_model.safetensors": b"weights"}


@pytest.fixture
def rest(connect_rest: Callable[..., Any], archive: dict[str, bytes]) -> Iterator[Any]:
    """A client of a server that answers with the archive itself."""
    with answering(lambda call: Answer(200, tar_of(archive))) as server:
        yield connect_rest(server.base_url, dialect=Dialect())


def test_a_checkpoint_goes_there_with_a_card(rest: Any, hub: Hub) -> None:
    assert rest.push_to_hub(PATH, "ada/poems", token="hf-token") == "https://hub/commit"
    assert hub.tokens == ["hf-token"]
    assert hub.calls[0] == (
        "create_repo",
        {"repo_id": "ada/poems", "private": True, "exist_ok": True},
    )
    assert hub.calls[1][1]["commit_message"] == f"Upload {PATH}"
    assert hub.files["adapter_model.safetensors"] == b"weights"
    card = ModelCard(hub.files["README.md"].decode())
    assert (card.data.base_model, card.data.library_name) == ("meta-llama/Llama-3.1-8B", "peft")
    assert set(card.data.tags) >= {"tinker", "lora"}
    assert f"of rank 16, trained with the Tinker API and saved as `{PATH}`" in card.text
    assert (
        "PeftModel.from_pretrained("
        "AutoModelForCausalLM.from_pretrained('meta-llama/Llama-3.1-8B'), 'ada/poems')" in card.text
    )


def test_a_branch_or_a_pull_request(rest: Any, hub: Hub) -> None:
    rest.push_to_hub(
        PATH,
        "ada/poems",
        revision="v2",
        private=False,
        ignore_patterns=["*.bin"],
        commit_message="two",
    )
    assert hub.calls[1] == (
        "create_branch",
        {"repo_id": "ada/poems", "branch": "v2", "exist_ok": True},
    )
    sent = hub.calls[2][1]
    assert (sent["revision"], sent["ignore_patterns"], sent["commit_message"]) == (
        "v2",
        ["*.bin"],
        "two",
    )
    assert rest.push_to_hub(PATH, "ada/poems", create_pr=True) == "https://hub/pr"


def test_a_card_that_is_there_is_kept_and_none_is_made_unasked(
    rest: Any, hub: Hub, archive: dict[str, bytes]
) -> None:
    rest.push_to_hub(PATH, "ada/poems", model_card=False)
    assert "README.md" not in hub.files
    archive["README.md"] = b"mine"
    rest.push_to_hub(PATH, "ada/poems")
    assert hub.files["README.md"] == b"mine"


def test_a_checkpoint_that_is_no_adapter_has_another_card() -> None:
    card = ModelCard(model_card(None, PATH, "ada/poems"))
    assert card.data.library_name == "transformers"
    assert "peft" not in card.text
    assert "AutoModelForCausalLM.from_pretrained('ada/poems')" in card.text


def test_a_card_names_no_folder_of_the_server() -> None:
    card = ModelCard(
        model_card({"base_model_name_or_path": "/srv/models/mine", "r": 4}, PATH, "ada/poems")
    )
    assert card.data.base_model is None
    assert "/srv" not in str(card)
    assert "AutoModelForCausalLM.from_pretrained('the base model')" in card.text

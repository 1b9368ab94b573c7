"""Uploads a checkpoint's folder to the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from tinkex.downloads.adapter_files import read_config, read_if_valid

_CARD = """\
---
{front}
---

# {title}

{what}, trained with the Tinker API and saved as `{path}`.

```python
{usage}
```
"""
_USE_ADAPTER = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base!r}), {repo!r})"""
_USE_MODEL = """\
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained({repo!r})"""


@frozen(kw_only=True)
class HubUpload:
    """The repository on the hub to which a folder is uploaded, and the settings of the upload."""

    repo_id: str
    private: bool
    revision: str | None
    commit_message: str | None
    create_pr: bool
    allow_patterns: Sequence[str] | None
    ignore_patterns: Sequence[str] | None
    token: str | None

    def upload(self, folder: Path, tinker_path: str) -> str:
        """Uploads the folder, and returns the URL of the commit or of the pull request. Raises what
        huggingface_hub raises.
        """
        from huggingface_hub import HfApi  # imported here, since the import is slow

        api = HfApi(token=self.token)
        api.create_repo(self.repo_id, private=self.private, exist_ok=True)
        if self.revision is not None and not self.create_pr:
            api.create_branch(self.repo_id, branch=self.revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=self.repo_id,
            folder_path=folder,
            revision=self.revision,
            commit_message=self.commit_message or f"Upload {tinker_path}",
            create_pr=self.create_pr,
            allow_patterns=None if self.allow_patterns is None else list(self.allow_patterns),
            ignore_patterns=None if self.ignore_patterns is None else list(self.ignore_patterns),
        )
        return commit.pr_url or commit.commit_url


def add_model_card(folder: Path, tinker_path: str, repo_id: str) -> None:
    """Writes a README.md from the adapter's configuration. Keeps one that exists already."""
    card = folder / "README.md"
    if not card.exists():
        card.write_text(
            model_card(read_if_valid(read_config, folder), tinker_path, repo_id), encoding="utf-8"
        )


def model_card(adapter: Mapping[str, Any] | None, tinker_path: str, repo_id: str) -> str:
    """Returns the text of a model card. `adapter` is the content of adapter_config.json; None for a
    checkpoint that is not an adapter.
    """
    named = (adapter or {}).get("base_model_name_or_path")
    # a folder on the server means nothing to others
    on_hub = named is not None and not Path(named).is_absolute()
    base = named if on_hub else "the base model"
    front = {
        "library_name": "peft" if adapter else "transformers",
        **({"base_model": base} if on_hub else {}),
        "tags": ["tinker", "tinkex", *(["lora"] if adapter else [])],
    }
    rank = (adapter or {}).get("r")
    return _CARD.format(
        # JSON is YAML
        front="\n".join(f"{name}: {json.dumps(value)}" for name, value in front.items()),
        title=repo_id.rpartition("/")[2],
        what=f"A LoRA adapter of {base}, of rank {rank}" if adapter else "A model",
        path=tinker_path,
        usage=(_USE_ADAPTER if adapter else _USE_MODEL).format(base=base, repo=repo_id),
    )

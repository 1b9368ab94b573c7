"""The table of the drop-in: each name leads to something, and those that do not say why."""

from __future__ import annotations

from importlib import import_module
from typing import Any, get_args

import pytest
from tinkex_api.models import OptimizerConfig, SearchOwner, SessionStatus

import tinkex
from tinkex.dropin import FOLDER, missing, types
from tinkex.dropin.finder import DropInFinder
from tinkex.dropin.modules import DropInModule
from tinkex.dropin.table import MODULES, RELEASE


def test_each_source_has_its_name() -> None:
    for names in MODULES.values():
        for source in names.values():
            home, _, name = source.partition(":")
            assert hasattr(import_module(home), name), source


def test_the_package_of_each_module_is_there() -> None:
    for name in MODULES:
        assert name == "tinker" or name.rpartition(".")[0] in MODULES


def test_a_name_is_the_same_in_each_module_that_has_it() -> None:
    in_package = MODULES["tinker"]
    for module, names in MODULES.items():
        if not module.startswith("tinker.proto"):
            for name in names.keys() & in_package.keys():
                assert names[name] == in_package[name], (module, name)


def test_types_and_errors_are_tinkexs_own() -> None:
    module: Any = DropInModule("tinker")
    for name in ("DimuonParams", "Datum", "ModelInput", "TensorData", "APIStatusError"):
        assert getattr(module, name) is getattr(tinkex, name)
    assert module.TinkerError is tinkex.TinkexError
    assert {"ServiceClient", "types", "auth"} <= {*module.__all__} <= {*dir(module)}


def test_the_metadata_name_the_release_of_the_table() -> None:
    [metadata] = FOLDER.glob("*.dist-info/METADATA")
    assert f"\nVersion: {RELEASE}\n" in metadata.read_text()
    assert metadata.parent.name == f"tinker-{RELEASE}.dist-info"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tinker.RequestOptions", "tinkex.Config"),
        ("tinker._client", "tinkex.transport"),
        ("tinker.resources.training", "tinkex.transport"),
        ("tinker.lib.internal_client_holder.InternalClientHolder", "public clients"),
        ("tinker.lib.chunked_fwdbwd_helpers", "splits large batches"),
        ("tinker._compat.model_dump", "model_dump"),
        ("tinker.types.TelemetryBatch", "tinkex.telemetry"),
        ("tinker.cli.commands.run", "`tinkex --help`"),
        ("tinker.proto.request_conv", "tinkex_api"),
        ("tinker.ServiceCleint", "Did you mean tinker.ServiceClient?"),
        ("tinker.types.tensor_dat", "Did you mean tinker.types.tensor_data?"),
        ("tinker.xyz", f"no public name of its release {RELEASE}"),
    ],
)
def test_what_is_said_of_a_name_that_is_not_there(name: str, said: str) -> None:
    text = missing.explanation(name)
    assert text.startswith(f"{name} has no counterpart in tinkex")
    assert said in text


def test_no_advice_is_given_for_what_is_there() -> None:
    known = {*MODULES, *(f"{module}.{name}" for module in MODULES for name in MODULES[module])}
    assert not known & missing.ADVICE.keys()


def test_other_packages_are_found_by_others() -> None:
    finder = DropInFinder()
    assert finder.find_spec("tinker_cookbook") is None
    assert finder.find_spec("json") is None
    with pytest.raises(ModuleNotFoundError, match=r"tinker\._client has no counterpart"):
        finder.find_spec("tinker._client")


def test_a_class_for_each_kind_of_what_is_one_class_here() -> None:
    owner = types.UserSearchOwner(owner_urns=["a"])
    assert owner == SearchOwner("user", ["a"])
    assert isinstance(owner, types.UserSearchOwner)
    assert not isinstance(owner, types.OwnSearchOwner)
    assert isinstance(SessionStatus("active"), types.SessionActive)
    assert types.DimuonOptimizerConfig() == OptimizerConfig("dimuon", version=1)
    assert types.AdamOptimizerConfig.model_validate({"type": "adamw"}) == OptimizerConfig()
    with pytest.raises(ValueError, match="version"):
        types.AdamOptimizerConfig(versoin=1)


def test_texts_have_the_names_that_programs_give_them() -> None:
    assert "ppo" in get_args(types.LossFnType)
    assert types.RequestErrorCategory.User == "user"
    assert types.QueueState("paused_capacity") is types.QueueState.PAUSED_CAPACITY
    assert types.QueueState("new") is types.QueueState.UNKNOWN


def test_the_address_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    assert types.resolve_base_url().startswith("https://tinker.")
    monkeypatch.setenv("TINKER_BASE_URL", "http://here")
    assert types.resolve_base_url() == "http://here"
    assert types.resolve_base_url("http://there") == "http://there"

"""Runs pytest in a process of its own, on test modules that a test has written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from attrs import frozen


@frozen
class Outcomes:
    """The outcomes of a run: `passed`, `failure`, `error` or `skipped`, by module and test."""

    by_module: Mapping[str, Mapping[str, str]]
    output: str

    def assert_passed(self, module: str, tests: int) -> None:
        """Fails unless exactly this many tests of the module ran, and all passed."""
        outcomes = self.by_module.get(module, {})
        assert list(outcomes.values()) == ["passed"] * tests, f"{outcomes}\n{self.output}"


def run_pytest(folder: Path, modules: Mapping[str, str]) -> Outcomes:
    """Runs these modules, source by name, in `folder` with the plugin of tinkex and no other.

    The other plugins that are installed here take longer to import than the tests take to run.
    """
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(source)
    report = folder / "report.xml"
    options = ["--strict-markers", "-W", "error", f"--junitxml={report}", f"--rootdir={folder}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tinkex.pytest_plugin", *options, str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    output = done.stdout + done.stderr
    assert report.exists(), output
    by_module: dict[str, dict[str, str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        outcome = next(
            (child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed"
        )
        module = case.attrib["classname"].split(".")[0]
        by_module.setdefault(module, {})[case.attrib["name"]] = outcome
    return Outcomes(by_module, output)

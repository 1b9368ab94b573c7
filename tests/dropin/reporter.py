"""A pytest plugin that writes the result of every test to the file that $DROPIN_REPORT names, and,
where $DROPIN is set, puts tinkex under the name `tinker` before any test is read.
"""

import json
import os
import sys
from importlib.metadata import distribution
from pathlib import Path

OUTCOMES = {}
SEVERITY = ("xfailed", "skipped", "passed", "failed")
if os.environ.get("DROPIN"):
    import tinkex.dropin

    tinkex.dropin.install()


def pytest_collectreport(report):
    if report.failed:
        _keep(report.nodeid, "failed", str(report.longrepr))
    elif report.skipped:
        _keep(report.nodeid, "skipped", "")


def pytest_runtest_logreport(report):
    outcome = "xfailed" if hasattr(report, "wasxfail") else report.outcome
    # a fixture that ends well has no say in it
    if report.when == "call" or outcome != "passed":
        _keep(report.nodeid, outcome, report.longreprtext)


def _keep(test, outcome, why):
    before = OUTCOMES.get(test, ("xfailed", ""))
    if SEVERITY.index(outcome) >= SEVERITY.index(before[0]):
        OUTCOMES[test] = (outcome, "\n".join(why.splitlines()[-3:]))


def pytest_sessionfinish(session):
    """Adds whose modules were imported as `tinker`; a worker of xdist has no report to write."""
    if hasattr(session.config, "workerinput"):
        session.config.workeroutput["tinker_is"] = _tinker_is()
        return
    path = Path(os.environ["DROPIN_REPORT"])
    names = sorted(set(WORKERS) or {_tinker_is()})
    path.write_text(json.dumps({"tinker_is": names, "tests": OUTCOMES}))


WORKERS = []


def pytest_testnodedown(node):
    WORKERS.append(node.workeroutput["tinker_is"])


def _tinker_is():
    """Returns whose code the modules of that name are: "official", "tinkex" or "official, tinkex"."""
    official = str(distribution("tinker").locate_file("tinker"))
    files = {
        str(getattr(module, "__file__", "") or "").startswith(official)
        for name, module in list(sys.modules.items())
        if name == "tinker" or name.startswith("tinker.")
    }
    return ", ".join(sorted({"official" if own else "tinkex" for own in files}))

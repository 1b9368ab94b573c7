"""A pytest plugin that writes the result of every test to the file that $DROPIN_REPORT names, and,
where $DROPIN is set, puts tinkex under the name `tinker` before any test is read.
"""

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

OUTCOMES = {}
SEVERITY = ("xfailed", "skipped", "passed", "failed")
if os.environ.get("DROPIN"):
    import tinkex.dropin

    tinkex.dropin.install()


def pytest_collectreport(report):
    if report.failed:
        _keep(report, "failed")
    elif report.skipped:
        _keep(report, "skipped")


def pytest_runtest_logreport(report):
    outcome = "xfailed" if hasattr(report, "wasxfail") else report.outcome
    # a fixture that ends well has no say in it
    if report.when == "call" or outcome != "passed":
        _keep(report, outcome)


def _keep(report, outcome):
    before = OUTCOMES.get(report.nodeid, ("xfailed", ""))
    if SEVERITY.index(outcome) >= SEVERITY.index(before[0]):
        OUTCOMES[report.nodeid] = (outcome, _why(report) if outcome == "failed" else "")


def _why(report):
    """Returns the error with the first line of its message, or where there is none, the last line
    of the report.
    """
    crash = getattr(report.longrepr, "reprcrash", None)
    return crash.message.splitlines()[0] if crash else report.longreprtext.splitlines()[-1]


def pytest_sessionfinish():
    """Writes the results, and whose code the modules named `tinker` are; ends what a test of the
    cookbook leaves running.
    """
    report = {"tinker_is": _tinker_is(), "tests": OUTCOMES}
    Path(os.environ["DROPIN_REPORT"]).write_text(json.dumps(report))
    for children in Path("/proc/self/task").glob("*/children"):
        for child in children.read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGTERM)


def _tinker_is():
    """Returns "official" or "tinkex", or both where modules of both were imported."""
    modules = [sys.modules[name] for name in sys.modules.copy() if name.split(".")[0] == "tinker"]
    origins = {getattr(module.__spec__, "origin", None) for module in modules}
    owners = {"tinkex" if origin == "tinkex.dropin" else "official" for origin in origins}
    return " and ".join(sorted(owners))

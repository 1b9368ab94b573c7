"""An engine imports little, and has what it deferred when that is needed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.support.engine_forks import Forks

_START = """
import sys
import numpy as np
from tinkex_server.engine.factory import create_torch_engine
from tinkex_server.engine.interface import *

engine = create_torch_engine(["tinkex/tiny"], "cpu", None)
engine.ready.result()
"""
_JOB = """
for kind, settings in (
    ("adamw", AdamSettings()),
    ("dimuon", DimuonSettings(1e-3)),
    ("sgd", SgdSettings(1e-3)),
):
    engine.create_model(kind, "tinkex/tiny", LoraShape(4), kind)
    datum = Example(np.arange(3), {"target_tokens": np.arange(3), "weights": np.ones(3, "f4")})
    engine.forward_backward(kind, [datum, datum], "cross_entropy", {}, backward=True)
    engine.optim_step(kind, settings)
engine.load_sampler("base", "tinkex/tiny", None)
assert len(engine.sample("base", SampleSpec([1, 2, 3], max_tokens=2)).result().sequences) == 1
"""


@pytest.fixture
def run(forks: Callable[[], Forks]) -> Callable[[str], str]:
    """A function that runs a program in a process that has imported what an engine imports, and
    returns what it printed.
    """
    return forks().output_of if sys.platform == "linux" else output


def output(script: str) -> str:
    """Runs a program in a process that has imported nothing, and returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_engine_that_trains_and_samples_needs_no_compiler(run: Callable[[str], str]) -> None:
    shown = run(f"{_START}{_JOB}print(sorted(name for name in sys.modules if '.' in name))")
    assert "torch.optim.adamw" in shown
    for unused in ("torch._dynamo.eval_frame", "torch.distributed.tensor", "torch._inductor"):
        assert f"'{unused}'" not in shown


def test_the_compiler_is_there_when_something_is_compiled(run: Callable[[str], str]) -> None:
    script = """
import torch
twice = torch.compile(lambda x: 2 * x, backend="eager")
print(twice(torch.ones(2)).tolist(), "torch._dynamo.eval_frame" in sys.modules)
from torch._dynamo import reset
from torch._dynamo._trace_wrapped_higher_order_op import trace_wrapped
print(torch._dynamo is sys.modules["torch._dynamo"], reset.__module__, trace_wrapped.__module__)
engine.load_sampler("base", "tinkex/tiny", None)
print(len(engine.sample("base", SampleSpec([1, 2, 3], max_tokens=2)).result().sequences))
"""
    assert run(f"{_START}{script}").splitlines() == [
        "[2.0, 2.0] True",
        "True torch._dynamo torch._dynamo._trace_wrapped_higher_order_op",
        "1",
    ]


def test_masks_that_need_the_compiler_get_it(run: Callable[[str], str]) -> None:
    script = """
import torch
from transformers import masking_utils
with masking_utils.TransformGetItemToIndex():
    rows = torch.vmap(lambda row: torch.eye(3)[row])(torch.arange(3))
print(type(masking_utils.TransformGetItemToIndex()).__module__, torch.equal(rows, torch.eye(3)))
"""
    assert run(f"{_START}{script}") == ("torch._dynamo._trace_wrapped_higher_order_op True\n")


def test_the_files_of_the_models_are_read_once() -> None:
    script = """
from transformers.utils import import_utils
read = []
fetch = import_utils.fetch__all__
import_utils.fetch__all__ = lambda text: read.append(1) or fetch(text)
import transformers.models
"""
    lean = "from tinkex_server.engine.torch.lean_imports import import_lean\nimport_lean()\n"
    assert output(f"{lean}{script}print(len(read))") == "0\n"

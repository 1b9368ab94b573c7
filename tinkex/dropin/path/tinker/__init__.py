"""Puts tinkex in place of the official SDK where this folder is on PYTHONPATH.

`tinkex exec` and `tinkex.dropin.install()` put it there, so that the processes that a program
starts import the same `tinker` as the program does.
"""

import sys

sys.modules.pop(__name__, None)  # makes room for the drop-in, which this import returns
try:
    from tinkex.dropin import install
except ImportError as error:
    raise ImportError(
        f"{sys.executable} runs a program for which tinkex stands in for the official SDK "
        f"(PYTHONPATH begins with {__file__.rpartition('tinker')[0]}), and cannot import tinkex: "
        f"{error}. Install tinkex in that environment, or start the process without this entry of "
        "PYTHONPATH.",
        name=__name__,
    ) from error

install()
import tinker  # noqa: E402, F401 # pyright: ignore[reportUnusedImport] - the drop-in

"""`end`: ends a program that used the official SDK."""

import os
import sys


def end(status):
    """Ends this process with that exit code, and leaves out the end of the interpreter.

    The SDK's event loop runs in a daemon thread. Where the interpreter ends while that thread is in
    compiled code, the process crashes: once in some 150 runs of the SDK's own commands.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

"""`python -m tinkex.dropin script.py arguments…`, or `-m module arguments…`: runs a program for the
official SDK on tinkex.
"""

from __future__ import annotations

import os
import sys

from tinkex.dropin.command import run
from tinkex.errors import ConfigError

try:
    run(sys.argv[1:], os.environ)
except ConfigError as error:
    sys.exit(f"python -m tinkex.dropin: {error}")

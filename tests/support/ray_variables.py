"""The variables that Ray reads when it is first imported. Importing this module sets them."""

from __future__ import annotations

import os

# nothing is reported to anybody, and clusters listen on the loopback address alone
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# the processes of Ray would have to wait for those of other tests
os.environ.setdefault("RAY_worker_niceness", "0")
# seconds; a crowded machine takes long
os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")

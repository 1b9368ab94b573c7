"""Sampling from many machines: Ray Data, and rollouts of environments. Needs the extra `ray`.

A `SamplingClient` is sent to the workers without its API key. Each worker takes the key from its
own environment, so `TINKER_API_KEY` must be set where the nodes of the cluster are started. Do not
put it into a `runtime_env`: Ray stores that, and shows it.
"""

from __future__ import annotations

from tinkex.ray.datasets import sample_dataset
from tinkex.ray.rollouts import rollouts

__all__ = ["rollouts", "sample_dataset"]

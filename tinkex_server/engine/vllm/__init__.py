"""Sampling by vLLM, which runs in processes and an environment of its own."""

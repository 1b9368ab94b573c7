"""The dialects: the behaviour of each known server of the API, and decisions that depend on it.

Plain values: no I/O here.
"""

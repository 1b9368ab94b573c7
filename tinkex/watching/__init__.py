"""Follows the metrics of a run: in its file, or on the server."""

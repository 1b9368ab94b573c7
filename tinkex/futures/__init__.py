"""Futures: results that are polled from the server, and awaited by the user."""

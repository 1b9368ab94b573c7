"""Requests that were taken on: when each runs, what it runs on, and what becomes of it."""

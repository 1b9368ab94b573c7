"""Waits that say what they wait for and whose they are, and that end."""

"""Runs that go on from their last checkpoint when a server loses them."""

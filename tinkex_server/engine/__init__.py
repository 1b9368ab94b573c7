"""Engines: models in memory, trained and sampled from, behind one interface of plain values."""

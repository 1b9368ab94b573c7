"""The training client: one model, whose calls are sent in their order."""

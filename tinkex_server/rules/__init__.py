"""The rules of the server on models, sessions and checkpoints, which several routes share."""

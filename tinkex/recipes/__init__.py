"""Training recipes over the public clients: a config, a run folder, a loop, a card at the end."""

"""The management clients: sessions, runs, checkpoints, uploads, and what an organization used."""

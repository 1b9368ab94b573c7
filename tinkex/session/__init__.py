"""Sessions: a server found out, a session begun there, kept alive by heartbeats, and ended."""

"""Sessions on a server: discovery, start, heartbeats, shutdown and telemetry."""

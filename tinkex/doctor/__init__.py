"""The doctor: ten short probes of the settings, the network and the server."""

"""An engine in a process of its own, so that a crash, or a lack of memory, does not end the server."""

"""An engine in a process of its own, whose crash or lack of memory does not end the server."""

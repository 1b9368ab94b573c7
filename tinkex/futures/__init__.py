"""Results to come: polled from the server, and awaited by the user."""

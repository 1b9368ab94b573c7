"""The routes by subject; each module's `ROUTES`."""

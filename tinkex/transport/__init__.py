"""One exchange with the server: its key, its connection, its retries, its errors."""

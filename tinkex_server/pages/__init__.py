"""The HTML pages of the server: its status at `/`, the contract at `/docs`. They use no scripts."""

"""Authentication of requests, and what each caller may see."""

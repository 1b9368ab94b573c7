"""Between HTTP and the handlers: bodies in, answers out."""

"""The sampling clients: one set of weights, any number of samples at once."""

"""Sampling clients: any number of samples at once, from one set of weights."""

"""An engine on a Ray cluster: a trainer and a pool of samplers for each base model, each an actor
that Ray places.
"""

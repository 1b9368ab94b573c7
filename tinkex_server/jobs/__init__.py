"""Accepted requests: the order in which they run, the state that they run on, and their
outcomes.
"""

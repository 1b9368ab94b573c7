"""Modules that several routes share: from the request to a handler's arguments, and from values to
the answer.
"""

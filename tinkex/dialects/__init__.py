"""The dialects: what is known of each server that speaks the API, and what follows from it. Plain
values.
"""

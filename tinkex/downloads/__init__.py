"""Downloads of checkpoints: found, fetched in pieces, unpacked, and moved to their place as a
whole.
"""

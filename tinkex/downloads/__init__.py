"""Downloads of checkpoints: fetched in pieces, unpacked, and moved to their folder as a whole."""

"""The portal: the background event loop and the futures of the blocking clients."""

"""Waits that are bounded, and that report what they wait for and who causes them."""

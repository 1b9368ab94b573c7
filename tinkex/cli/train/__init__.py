"""The commands `tinkex train RECIPE`."""

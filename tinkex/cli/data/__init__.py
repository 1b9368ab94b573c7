"""The commands `tinkex data`."""

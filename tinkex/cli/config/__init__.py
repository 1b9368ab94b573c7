"""The commands `tinkex config …`."""

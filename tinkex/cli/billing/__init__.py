"""The commands `tinkex billing …`."""

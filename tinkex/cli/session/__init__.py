"""The commands `tinkex session …`."""

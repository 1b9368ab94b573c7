"""The commands `tinkex auth …`."""

"""The commands `tinkex checkpoint …`."""

"""The commands `tinkex model …`."""

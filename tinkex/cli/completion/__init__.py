"""The commands `tinkex completion …`."""

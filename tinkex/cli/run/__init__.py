"""The commands `tinkex run …`."""

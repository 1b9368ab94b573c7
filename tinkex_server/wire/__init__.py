"""Requests and answers as they travel over HTTP: JSON, protobuf, downloads and events."""

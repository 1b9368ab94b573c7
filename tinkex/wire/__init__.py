"""The client's types as bytes, and back: JSON and protobuf."""

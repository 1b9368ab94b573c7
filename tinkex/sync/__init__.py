"""The blocking clients. Generated from the asyncio ones by `make generate`; not to be edited."""

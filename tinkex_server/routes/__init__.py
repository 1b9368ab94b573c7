"""The HTTP routes, a module for each subject with its `ROUTES`. What several of them need is in
`support/` and in `tinkex_server.rules`; no route module imports another.
"""

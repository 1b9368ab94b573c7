"""The embedded server: the Tinker API on this machine, which really trains and samples. Its public
names are those of `tinkex.local`.

It shares the contract, and the code generated from it, with the client, and nothing else, so that a
mistake in one cannot be hidden by the same mistake in the other.

A request passes through these folders: `access` finds out who sent it, `wire` reads it, a handler
in `routes` accepts it by the `rules`, `jobs` lets it wait for its turn and keeps its result,
`engine` trains or samples, and `store` remembers. `profiles` stands before all of them, and
imitates other servers. `pages` shows the server's state to people.
"""

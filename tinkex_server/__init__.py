"""The embedded server: the Tinker API on this machine, really training and sampling. Its public
names are those of `tinkex.local`.

It shares the contract and the code generated from it with the client, and nothing else, so that no
fault is on both sides.

A request's way through the folders: `wire` reads it, `guard` says who may do what, a handler of
`routes` takes it on, `work` has it wait for its turn and keeps its outcome, `engine` trains or
samples, and `store` remembers. `profiles` stands before all that and does it as other servers do;
`pages` shows it to people.
"""

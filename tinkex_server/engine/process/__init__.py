"""An engine in a process of its own: what crashes there, or runs out of memory, does not take the
server along.
"""

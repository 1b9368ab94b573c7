"""The bridge: a local server by which programs that speak the API of one server use any other one.

It shows the HTTP side of the embedded server, with its record of requests and of their results, and
does the work by the clients of this package, in the dialect of the server behind it.
"""

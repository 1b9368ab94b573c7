"""The running server: the application of all routes, the thread that serves it, the removal of what
has expired, and faults for tests.
"""

"""The running server: the application of all routes, the thread that serves it, faults, and what is
past its time.
"""

"""The data folder: where saved weights lie in it, what proves them, and how a database is made from
them again.
"""

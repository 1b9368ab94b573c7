"""The data folder: the folders of saved weights, their digests and manifests, and how rows that the
database has lost are restored from them.
"""

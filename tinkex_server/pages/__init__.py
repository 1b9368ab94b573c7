"""The pages for people: what the server holds and does at `/`, the contract at `/docs`. Plain HTML,
made here, with no script.
"""

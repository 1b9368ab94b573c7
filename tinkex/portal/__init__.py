"""What lets any thread use the asyncio clients: the event loop in the background, and futures for
threads.
"""

"""The consumer: the process that fetches and settles for one channel. It runs no user code."""

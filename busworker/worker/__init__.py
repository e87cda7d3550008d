"""The worker: the process that runs handlers. It holds no broker connection."""

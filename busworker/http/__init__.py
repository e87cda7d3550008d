"""The process that answers HTTP: metrics for Prometheus, probes for orchestrators."""

"""What this worker costs, beside what bare redis-py costs: ``python -m benchmarks --help``."""

"""Load on the service: rising concurrency, and a fixed rate."""

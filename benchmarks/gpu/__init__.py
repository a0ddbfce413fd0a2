"""`python -m benchmarks.gpu`: every figure that needs a GPU, in one command of eight minutes."""

"""What connected components and test-time training do, slice by slice."""

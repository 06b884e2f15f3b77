"""`python -m benchmarks first`: what the first six minutes on a GPU should find out."""

"""How a graph becomes kernels: fusion plan, tile programs, Triton source, compilation."""

"""Triton IR to LLVM IR: nests of loops over tiles, reductions, products, memory, control flow."""

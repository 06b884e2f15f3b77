"""What kernels are compared with: each op and update rule in plain torch, the tolerance, inputs to compare on.

It shares no code with what it judges: of `ir` it knows graphs and the registry, and of `codegen` nothing.
"""

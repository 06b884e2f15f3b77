"""One page that shows a program: formulas, graphs, plan, Triton, machine code and memory, linked with each other."""

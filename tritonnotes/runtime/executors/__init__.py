"""What launches a program: machine code or the strict interpreter on the CPU, Triton on a GPU."""

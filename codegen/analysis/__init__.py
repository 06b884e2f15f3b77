"""What the values of a graph are to a kernel: views, axes, units, matrix products, row idioms."""

"""`tn.check(kernel, reference, *tensors)`: anybody's Triton kernel before the judges of our own."""

"""GPUs, and compiling, caching and loading generated source for them."""

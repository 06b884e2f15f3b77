"""The program of a plan: launches over buffers, with its source; and compiling it."""

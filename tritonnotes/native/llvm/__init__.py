"""LLVM IR: its text, elementwise operations and mathematics; compiling and loading it."""

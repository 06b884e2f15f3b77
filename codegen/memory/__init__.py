"""The buffers of a program, and the arena they lie in."""

"""Passes that rewrite a graph of primitives before it is planned."""

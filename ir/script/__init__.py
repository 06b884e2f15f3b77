"""A declared graph as a script that declares it: `graph.to_python()`."""

from . import script

__all__ = ["script"]

"""What a model is: types, graph, ops, primitives, gradients, rewriting, verification and text form."""

from . import ops, parts, primitives, update_rules
from .graph import Graph, Value
from .types import Dim

__all__ = ["Dim", "Graph", "Value", "ops", "parts", "primitives", "update_rules"]

"""What a model is, in rooms; each imports only those before it.

- `core`: types, errors, graph, what an op and an optimizer are, rewriting, evaluation, printing, verification;
- `primitives`: the closed set that every op is made of, each with its numpy meaning and its derivative;
- `text`: graphs read from text, JSON and pickles;
- `ops`: the ops, each with formula, hand-written gradient, domain and note;
- `optim`: update rules, and updates in a graph;
- `passes`: from graph to graph: primitives, gradients, the joint graph, evaluation, mixed precision, chunks of rows;
- `script`: a declared graph as the Python that declares it.
"""

from . import ops, primitives, script, text
from .core.graph import Graph, Value
from .core.types import Dim
from .optim import update_rules

__all__ = ["Dim", "Graph", "Value", "ops", "primitives", "script", "text", "update_rules"]

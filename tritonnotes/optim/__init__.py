"""torch's optimizers with a step that is one generated kernel, whatever the number of parameters."""

from .base import UpdateOptimizer
from .classes import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, Lion, NAdam, RAdam, RMSprop
from .from_rule import from_rule

__all__ = [
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "NAdam",
    "RAdam",
    "RMSprop",
    "UpdateOptimizer",
    "from_rule",
]

"""Small models as graphs, differentiated, fused and written as Triton kernels that one can read."""

from .check import Certificate, check
from .compile import compile, compile_step
from .custom import op, update_rule
from .executor import eager
from .graph import Graph
from .ir.errors import TritonNotesError
from .ir.graph import Value
from .ir.ops.activations import relu, sigmoid
from .ir.ops.linear import linear
from .ir.ops.losses import cross_entropy, mse_loss
from .ir.ops.metrics import accuracy
from .ir.ops.normalization import layer_norm
from .ir.primitives import (
    abs,
    add,
    argmax,
    broadcast_to,
    cast,
    cos,
    div,
    erf,
    exp,
    expm1,
    floor,
    log,
    log1p,
    matmul,
    max,
    maximum,
    mean,
    min,
    minimum,
    mul,
    neg,
    pow,
    reshape,
    rsqrt,
    sign,
    sin,
    sqrt,
    sub,
    sum,
    tanh,
    transpose,
    where,
)
from .ir.types import Dim
from .ir.version import VERSION
from .model import Model
from .optimizers import adam, sgd
from .training import TrainingStep

__version__ = VERSION

__all__ = [
    "Certificate",
    "Dim",
    "Graph",
    "Model",
    "TrainingStep",
    "TritonNotesError",
    "Value",
    "abs",
    "accuracy",
    "adam",
    "add",
    "argmax",
    "broadcast_to",
    "cast",
    "check",
    "compile",
    "compile_step",
    "cos",
    "cross_entropy",
    "div",
    "eager",
    "erf",
    "exp",
    "expm1",
    "floor",
    "layer_norm",
    "linear",
    "log",
    "log1p",
    "matmul",
    "max",
    "maximum",
    "mean",
    "min",
    "minimum",
    "mse_loss",
    "mul",
    "neg",
    "op",
    "pow",
    "relu",
    "reshape",
    "rsqrt",
    "sgd",
    "sigmoid",
    "sign",
    "sin",
    "sqrt",
    "sub",
    "sum",
    "tanh",
    "transpose",
    "update_rule",
    "where",
]

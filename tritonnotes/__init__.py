"""Small models as graphs, differentiated, fused and written as Triton kernels that one can read."""

from .accumulator import MetricAccumulator
from .check import Certificate, check
from .compile import compile, compile_step
from .custom import op, update_rule
from .executor import eager, eager_updates
from .graph import Graph
from .ir.errors import TritonNotesError
from .ir.graph import Value
from .ir.ops.activations import relu, sigmoid
from .ir.ops.binary import binary_cross_entropy, binary_cross_entropy_with_logits, focal_loss
from .ir.ops.divergences import binary_entropy, entropy, js_divergence, kl_div
from .ir.ops.embedding import embedding
from .ir.ops.gated import geglu, glu, reglu, swiglu
from .ir.ops.gates import gelu, hardsigmoid, hardswish, logsigmoid, mish, silu, softplus, softsign, tanhshrink
from .ir.ops.linear import linear
from .ir.ops.losses import cross_entropy, nll_loss
from .ir.ops.margins import (
    exponential_loss,
    hinge_loss,
    perceptron_loss,
    soft_margin_loss,
    squared_hinge_loss,
    zero_one_loss,
)
from .ir.ops.metrics import accuracy, confusion_matrix, error_rate
from .ir.ops.normalization import layer_norm
from .ir.ops.parts import chunk, split
from .ir.ops.piecewise import celu, elu, hardshrink, hardtanh, leaky_relu, prelu, relu6, selu, softshrink, threshold
from .ir.ops.rankings import cosine_embedding_loss, margin_ranking_loss, multi_margin_loss, triplet_margin_loss
from .ir.ops.regression import (
    gaussian_nll_loss,
    huber_loss,
    l1_loss,
    log_cosh_loss,
    mse_loss,
    poisson_nll_loss,
    quantile_loss,
    smooth_l1_loss,
)
from .ir.ops.scores import f1, precision, recall, specificity
from .ir.ops.softmax import log_softmax, softmax, softmin
from .ir.parts import cat, narrow
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
    "MetricAccumulator",
    "Model",
    "TrainingStep",
    "TritonNotesError",
    "Value",
    "abs",
    "accuracy",
    "adam",
    "add",
    "argmax",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "binary_entropy",
    "broadcast_to",
    "cast",
    "cat",
    "celu",
    "check",
    "chunk",
    "compile",
    "compile_step",
    "confusion_matrix",
    "cos",
    "cosine_embedding_loss",
    "cross_entropy",
    "div",
    "eager",
    "eager_updates",
    "elu",
    "embedding",
    "entropy",
    "erf",
    "error_rate",
    "exp",
    "expm1",
    "exponential_loss",
    "f1",
    "floor",
    "focal_loss",
    "gaussian_nll_loss",
    "geglu",
    "gelu",
    "glu",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "hinge_loss",
    "huber_loss",
    "js_divergence",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log",
    "log1p",
    "log_cosh_loss",
    "log_softmax",
    "logsigmoid",
    "margin_ranking_loss",
    "matmul",
    "max",
    "maximum",
    "mean",
    "min",
    "minimum",
    "mish",
    "mse_loss",
    "mul",
    "multi_margin_loss",
    "narrow",
    "neg",
    "nll_loss",
    "op",
    "perceptron_loss",
    "poisson_nll_loss",
    "pow",
    "precision",
    "prelu",
    "quantile_loss",
    "recall",
    "reglu",
    "relu",
    "relu6",
    "reshape",
    "rsqrt",
    "selu",
    "sgd",
    "sigmoid",
    "sign",
    "silu",
    "sin",
    "smooth_l1_loss",
    "soft_margin_loss",
    "softmax",
    "softmin",
    "softplus",
    "softshrink",
    "softsign",
    "specificity",
    "split",
    "sqrt",
    "squared_hinge_loss",
    "sub",
    "sum",
    "swiglu",
    "tanh",
    "tanhshrink",
    "threshold",
    "transpose",
    "triplet_margin_loss",
    "update_rule",
    "where",
    "zero_one_loss",
]

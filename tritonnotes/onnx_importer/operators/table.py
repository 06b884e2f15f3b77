"""Which operators of ONNX are read: one row for each meaning that an operator has had."""

from __future__ import annotations

from .activations import ACTIVATIONS
from .elementwise import ELEMENTWISE
from .images import IMAGES
from .indexing import INDEXING
from .norms import NORMS
from .products import PRODUCTS
from .recurrent import RECURRENT
from .reductions import REDUCTIONS
from .rows import Table
from .shapes import SHAPES
from .windows import WINDOWS

TABLE: Table = {
    **ELEMENTWISE, **ACTIVATIONS, **NORMS, **REDUCTIONS, **SHAPES, **INDEXING, **PRODUCTS, **WINDOWS, **IMAGES,
    **RECURRENT,
}  # fmt: skip
"""By the operator's name; each begins with its oldest row, and the newest one of an operator set or before holds."""

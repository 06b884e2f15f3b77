"""Torch's lists of sample inputs, which live beside its own test classes and want what those want."""

from __future__ import annotations

import importlib.util
import sys
import types
import unittest

if importlib.util.find_spec("expecttest") is None:
    # The base class of torch's test cases comes from there; of those nothing is used here.
    stub = types.ModuleType("expecttest")
    stub.TestCase = unittest.TestCase  # type: ignore[attr-defined]
    stub.ACCEPT = False  # type: ignore[attr-defined]
    sys.modules["expecttest"] = stub

from torch.testing._internal.common_optimizers import OptimizerErrorEnum, OptimizerInfo, optim_db

__all__ = ["OptimizerErrorEnum", "OptimizerInfo", "optim_db"]

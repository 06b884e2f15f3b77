"""Where a test makes sense."""

from __future__ import annotations

import pytest
import torch

on_the_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="about kernels on the CPU")

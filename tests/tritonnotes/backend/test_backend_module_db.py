"""All modules of torch's own table of modules, compiled by torch.compile(backend="tritonnotes"): results and gradients.

torch's own tests of backends (test/dynamo/test_backends.py) are not part of its package. This table is; with
`test_backend_rules.py` and `test_backend_models.py` it stands in for them.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from module_samples import INFOS, Sample, Trained, differences, sample_of

import tritonnotes as tn

RECURRENT = "Dynamo does not support RNN, GRU, or LSTM"
BREAKS = {
    "CTCLoss": "Dynamic shape operator",
    "GRU": RECURRENT,
    "GaussianNLLLoss": "Could not guard on data-dependent expression",
    "LSTM": RECURRENT,
    "RNN": RECURRENT,
}
"""Modules that Dynamo itself hands over in pieces, and what it says where it must not."""

WHOLE = {"Transformer", "TransformerDecoderLayer", "TransformerEncoder"}
"""Models of layers that are compiled here, which take as long as all the rest."""


@pytest.mark.parametrize("name", [name for name in INFOS if name not in WHOLE])
def test_a_module_computes_as_in_eager(name: str) -> None:
    sample = sample_of(INFOS[name], 0, training=True)
    if name in BREAKS:
        whole = torch.compile(deepcopy(sample.module), backend="tritonnotes", fullgraph=True)
        with pytest.raises(Exception, match=BREAKS[name]):
            whole(*sample.example)
        torch._dynamo.reset()
    assert_computes(sample, fullgraph=name not in BREAKS)
    report = tn.torch_compile_report()
    assert report.fused > 0 and "report this" not in str(report), str(report)


@pytest.mark.parametrize(
    "name", [name for name, info in INFOS.items() if info.train_and_eval_differ and name not in WHOLE]
)
def test_a_module_evaluates_as_in_eager(name: str) -> None:
    assert_computes(sample_of(INFOS[name], 0, training=False), fullgraph=name not in BREAKS)
    assert "report this" not in str(tn.torch_compile_report())


def assert_computes(sample: Sample, **options: Any) -> None:
    net = deepcopy(sample.module)
    call = torch.compile(net, backend="tritonnotes", **options)
    runs = Trained(sample, torch.float32, net, call), Trained(sample, torch.float32), Trained(sample, torch.float64)
    mine, eager, exact = (one.runs() for one in runs)
    assert differences(mine, eager, exact) == []

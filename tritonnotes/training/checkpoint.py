"""What a training step or a model holds, in a safetensors file: written whole or not at all, believed only where it
fits."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..ir.core.errors import FeedError

FORMAT = "tritonnotes-1"
"""What the header of such a file says that it is."""

_DTYPES = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.bool": "BOOL",
}
"""safetensors' names of the dtypes that a state may have."""


def save(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """Write tensors by name, and numbers as JSON. A process that reads the path meanwhile, or after a crash in the
    middle, finds the file that was there before."""
    path = Path(path)
    metadata = {"format": FORMAT, "numbers": json.dumps(numbers, allow_nan=False)}
    held = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        save_file(held, temporary, metadata)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load(path: str | os.PathLike[str], wanted: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Any]:
    """The tensors and numbers of a file. Its names, shapes and dtypes must be those of `wanted`: that is checked before
    any tensor is read. Raises `FeedError` where they are not, and for a file of another kind."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise FeedError(f"load {path}: is no state of tritonnotes ({FORMAT}); write it with save()")
            _check(path, wanted, {name: file.get_slice(name) for name in file.keys()})  # noqa: SIM118
            return {name: file.get_tensor(name) for name in wanted}, json.loads(metadata["numbers"])
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise FeedError(f"load {path}: cannot be read as a state of tritonnotes: {error}") from None


def _check(path: object, wanted: Mapping[str, Tensor], found: Mapping[str, Any]) -> None:
    missing, unknown = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or unknown:
        raise FeedError(f"load {path}: lacks {missing} and has unknown {unknown}; load the state of the same graph")
    for name, tensor in wanted.items():
        have, want = (found[name].get_dtype(), found[name].get_shape()), (_DTYPES[str(tensor.dtype)], [*tensor.shape])
        if have != want:
            raise FeedError(
                f"load {path}: {name!r} is {have[0]}{have[1]}, wanted {want[0]}{want[1]}; "
                "load the state of the same graph"
            )

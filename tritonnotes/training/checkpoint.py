"""What a training step or a model holds, in a safetensors file: written whole or not at all, believed only where it
fits."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..ir.core.errors import FeedError, StateFileError

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
    middle, finds the file that was there before. Raises `StateFileError` where it cannot be written."""
    target = _regular(path, "save")
    metadata = {"format": FORMAT, "numbers": json.dumps(numbers, allow_nan=False)}
    held = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    try:
        _replace(target, held, metadata)
    except FileNotFoundError:
        raise StateFileError(f"save {path}: there is no folder {target.parent}; make it first") from None
    except (OSError, SafetensorError) as error:
        raise StateFileError(
            f"save {path}: cannot be written: {getattr(error, 'strerror', None) or error}; what was there stays; "
            "make room there, or name another path"
        ) from error


def _replace(target: Path, held: dict[str, Tensor], metadata: dict[str, str]) -> None:
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:100]}.")
    os.close(handle)
    try:
        save_file(held, temporary, metadata)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _regular(path: str | os.PathLike[str], doing: str) -> Path:
    """The file that a path leads to, by way of links. Raises `StateFileError` for a device, a pipe or a folder: these
    are not to be replaced, nor read for ever."""
    try:
        target = Path(os.path.realpath(path))
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return target
    except (OSError, TypeError, ValueError) as error:
        raise StateFileError(f"{doing} {path!r}: names no file ({error}); pass a path") from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a device, a pipe or a socket"
        raise StateFileError(f"{doing} {path}: is {kind}; name a regular file")
    return target


def load(path: str | os.PathLike[str], wanted: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Any]:
    """The tensors and numbers of a file. Its names, shapes and dtypes must be those of `wanted`: that is checked before
    any tensor is read. Raises `FeedError` where they are not, and for a file of another kind."""
    _regular(path, "load")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise FeedError(f"load {path}: is no state of tritonnotes ({FORMAT}); write it with save()")
            _check(path, wanted, {name: file.get_slice(name) for name in file.keys()})  # noqa: SIM118
            return {name: file.get_tensor(name) for name in wanted}, json.loads(metadata["numbers"])
    except FeedError:
        raise
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise FeedError(f"load {path}: cannot be read as a state of tritonnotes: {error}") from None


def differs(missing: Sequence[str], unknown: Sequence[str]) -> str:
    """What a state lacks of what is wanted, and has beside it, in words."""
    parts = [f"{what} {', '.join(names)}" for what, names in (("lacks", missing), ("has unknown", unknown)) if names]
    return " and ".join(parts)


def _check(path: object, wanted: Mapping[str, Tensor], found: Mapping[str, Any]) -> None:
    missing, unknown = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or unknown:
        raise FeedError(f"load {path}: {differs(missing, unknown)}; load the state of the same graph")
    for name, tensor in wanted.items():
        have, want = (found[name].get_dtype(), found[name].get_shape()), (_DTYPES[str(tensor.dtype)], [*tensor.shape])
        if have != want:
            raise FeedError(
                f"load {path}: {name!r} is {have[0]}{have[1]}, wanted {want[0]}{want[1]}; "
                "load the state of the same graph"
            )

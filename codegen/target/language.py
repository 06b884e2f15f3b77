"""Triton's language is one for the whole process: `tritonnotes.interpreter` redirects it for as long as a launch lasts,
and whoever compiles meanwhile would compile something else."""

from __future__ import annotations

import threading

triton_language = threading.RLock()
"""Held by whoever changes `triton.language`, and by whoever hands a kernel to Triton's front end."""

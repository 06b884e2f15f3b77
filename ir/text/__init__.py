"""A graph read from text or JSON, and written as JSON."""

from . import json_form, parser

__all__ = ["json_form", "parser"]

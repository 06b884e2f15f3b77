"""A graph read from text, JSON or a pickle, and written as JSON or a pickle."""

from . import json_form, parser, pickles

__all__ = ["json_form", "parser", "pickles"]

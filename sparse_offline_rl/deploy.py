"""From a trained agent to the contents of its policy file."""

from __future__ import annotations

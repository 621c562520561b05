"""Choices and defaults of a predictor that commands and services share; importing it loads no torch."""

from __future__ import annotations

LATE = ("refuse", "drop")
SHARE = 0.5

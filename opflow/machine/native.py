"""The extension in C, ``opflow._native``, where it was built."""

from __future__ import annotations

try:
    from opflow import _native as native
except ImportError:  # built without a compiler
    native = None  # type: ignore[assignment]

__all__ = ["native"]

"""Compile the extension ``opflow._native``: ``python native/build.py`` puts it into the sources."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def build(folder: str | Path) -> Path:
    """Compile the extension into `folder`; any failure is an exception.  Needs setuptools."""
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    native = ROOT / "native"
    extension = Extension(
        "opflow._native",
        [str(native / name) for name in ("gates.c", "packed.c", "module.c")],
        depends=[str(header) for header in native.glob("*.h")],
        extra_compile_args=["-std=gnu11", "-O3", "-pthread", "-Wall", "-Wextra"],
        extra_link_args=["-pthread"],
    )
    command = build_ext(Distribution({"name": "opflow", "ext_modules": [extension]}))
    with tempfile.TemporaryDirectory() as scratch:
        command.build_temp, command.build_lib = scratch, str(folder)
        command.ensure_finalized()
        command.run()
        return Path(command.get_ext_fullpath("opflow._native"))


if __name__ == "__main__":
    print(build(sys.argv[1] if len(sys.argv) > 1 else ROOT))

"""The results: one JSON file of a machine, its versions and the cells measured on it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("opflow", "numpy", "scipy", "torch", "jax", "curvlinops-for-pytorch", "nngeometry")
OLD = ("neural-tangents", "jax")


def here(neural_tangents: str | None = None) -> dict[str, Any]:
    """The machine and the versions, without a name of the host."""
    import opflow as of

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = of.__version__ if package == "opflow" else "not installed"
    if neural_tangents:
        code = f"from importlib.metadata import version; print(*map(version, {OLD!r}))"
        told = subprocess.run(
            [neural_tangents, "-c", code], capture_output=True, text=True, check=True
        )
        versions["neural-tangents"] = "{} on jax {}".format(*told.stdout.split())
    machine = {
        "processor": processor(),
        "cores": cores,
        "memory": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "gate products": of.gate_engines()[0],
    }
    return {"machine": machine, "versions": versions}


def processor() -> str:
    """The model of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def load(path: Path) -> dict[str, Any]:
    """What is in the file; nothing measured, if there is none."""
    if not path.exists():
        return {"machine": {}, "versions": {}, "cells": {}}
    return json.loads(path.read_text())


def joined(results: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """`results` to add cells to; another machine or other versions are an error.

    A version that was not installed before is added.
    """
    if not results["cells"]:
        return about | {"cells": {}}
    if results["machine"] != about["machine"]:
        sys.exit(f"the file holds results of {results['machine']}, not of {about['machine']}: "
                 "give another with --results")  # fmt: skip
    versions = dict(results["versions"])
    for package, version in about["versions"].items():
        before = versions.get(package, "not installed")
        if "not installed" not in (before, version) and before != version:
            sys.exit(f"the file holds results of {package} {before}, not {version}: "
                     "give another with --results")  # fmt: skip
        if version != "not installed" or package not in versions:
            versions[package] = version
    return {**results, "versions": versions}


def save(path: Path, results: dict[str, Any]) -> None:
    """Atomically: a run cut short leaves what it has measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".part")
    ordered = results | {"cells": dict(sorted(results["cells"].items()))}
    scratch.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")
    os.replace(scratch, path)

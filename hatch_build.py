"""Builds the optional extension with the wheel; an installation never fails for want of it."""

from __future__ import annotations

import os
import runpy
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ExtensionHook(BuildHookInterface):  # type: ignore[type-arg]
    """Compiles ``opflow._native`` into the wheel, or into the sources of an editable install.

    ``OPFLOW_NO_EXTENSION=1`` leaves it out.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel" or os.environ.get("OPFLOW_NO_EXTENSION", "0") not in "0":
            return
        root = Path(self.root)
        folder = root if version == "editable" else Path(self._scratch())
        try:
            built = runpy.run_path(str(root / "native" / "build.py"))["build"](folder)
        except (Exception, SystemExit) as error:
            self.app.display_warning(
                f"opflow is installed without its compiled products ({error}); "
                "everything works, through BLAS"
            )
            return
        if version != "editable":
            build_data["force_include"][str(built)] = f"opflow/{built.name}"
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if hasattr(self, "_folder"):
            self._folder.cleanup()

    def _scratch(self) -> str:
        self._folder = tempfile.TemporaryDirectory()
        return self._folder.name

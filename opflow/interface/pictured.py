"""``Pictured``: results that notebooks show as their one line and their picture."""

from __future__ import annotations

import html
import io
from base64 import b64encode
from importlib import import_module
from typing import Any


class Pictured:
    """A result with a picture, drawn by the function of :mod:`opflow.plot` named `_picture`."""

    _picture = ""

    def plot(self, **options: Any) -> Any:
        """Draw it; `options` are those of the function of :mod:`opflow.plot`, as `ax`.

        Returns
        -------
        matplotlib axes
        """
        return getattr(import_module("opflow.plot"), self._picture)(*self._drawn(), **options)

    def _drawn(self) -> tuple[Any, ...]:
        """The arguments of the picture."""
        return (self,)

    def _repr_html_(self) -> str:
        text = f"<pre>{html.escape(repr(self))}</pre>"
        png = io.BytesIO()
        try:
            self.plot().figure.savefig(png, format="png", dpi=80)
        except Exception:  # no matplotlib, or nothing to draw: the text stands alone
            return text
        return f'{text}<img src="data:image/png;base64,{b64encode(png.getvalue()).decode()}">'

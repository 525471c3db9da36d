"""The one HTML page: self-contained, pictures inside it, text escaped unless it is called HTML."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; padding: 0 1rem; color: #1f2933 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top }
figure { margin: 1rem 0 } img { max-width: 100% }
"""


def write_page(path: Path, title: str, sections: Iterable[str], style: str = "") -> None:
    """Write a page of ``sections``, which are HTML, under a heading ``title``; ``style`` is further CSS."""
    name = html.escape(title)
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title><style>{STYLE}{style}</style>'
    path.write_text(f"{head}<h1>{name}</h1>{chr(10).join(sections)}</html>\n", encoding="utf-8")


def table(rows: Iterable[Sequence[object]], header: Sequence[str] = (), css_class: str = "") -> str:
    """Return a table; without a ``header`` the first cell of each row heads it."""
    top = f"<tr>{''.join(f'<th>{html.escape(name)}</th>' for name in header)}</tr>" if header else ""
    first = "td" if header else "th"
    body = "".join(
        f"<tr><{first}>{html.escape(str(name))}</{first}>"
        + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells)
        + "</tr>"
        for name, *cells in rows
    )
    return f'<table class="{css_class}">{top}{body}</table>'


def picture(png: bytes, caption_html: str, alt: str = "") -> str:
    """Return a picture with its caption."""
    source = f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
    return f'<figure><img alt="{html.escape(alt)}" src="{source}"><figcaption>{caption_html}</figcaption></figure>'


def png_of(figure: Figure, dpi: int) -> bytes:
    """Render a matplotlib figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=dpi, format="png")
    return buffer.getvalue()

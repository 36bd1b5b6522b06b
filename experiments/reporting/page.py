"""HTML of our pages: one file, no scripts, nothing from elsewhere, all text escaped. Read `page`."""

import html
from collections.abc import Sequence

from experiments.ablation.tables import Table

_CSS = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 20%, transparent);
  --soft: color-mix(in srgb, currentColor 6%, transparent); }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
pre { background: var(--soft); padding: .75rem 1rem; overflow-x: auto; border-radius: .4rem; font-size: .85rem; }
.notice { font-weight: 700; border-left: .3rem solid #d55e00; padding-left: .75rem; }
.question { white-space: pre-wrap; max-width: 48rem; }
.wide { overflow-x: auto; } .wide:focus-visible { outline: 2px solid Highlight; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .5rem 0; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tbody th { font-weight: 600; } .legend, figcaption { font-size: .85rem; opacity: .8; max-width: 48rem; }
figure { margin: 1.5rem 0; } svg { max-width: 100%; height: auto; } svg text { font-family: inherit !important; }
details { margin: 1rem 0; } summary { cursor: pointer; }
"""


def page(title: str, parts: Sequence[str]) -> str:
    """Returns a whole page.

    Args:
      title: as text.
      parts: HTML of its sections.
    """
    name = html.escape(title)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n<h1>{name}</h1>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> str:
    """Returns parts under a heading, nothing without parts."""
    kept = [part for part in parts if part]
    return f"<section>\n<h2>{html.escape(title)}</h2>\n" + "\n".join(kept) + "\n</section>" if kept else ""


def text(words: str, *, kind: str = "") -> str:
    """Returns a paragraph."""
    return f"<p{_kind(kind)}>{html.escape(words)}</p>"


def folded(title: str, words: str) -> str:
    """Returns preformatted text that opens on a click."""
    return f"<details><summary>{html.escape(title)}</summary><pre>{html.escape(words)}</pre></details>"


def figure_of(svg: str, caption: str) -> str:
    """Returns an SVG element with words below."""
    return f"<figure>\n{svg}\n<figcaption>{html.escape(caption)}</figcaption>\n</figure>"


def table_of(table: Table) -> str:
    """Returns a table; its first column names the rows."""
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in table.header)
    body = "\n".join(
        f'<tr><th scope="row">{html.escape(row[0])}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in table.rows
    )
    # What scrolls must be reached by keyboard.
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{html.escape(table.title)}">\n<table>\n'
        f"<caption>{html.escape(table.title)}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n"
        "</table>\n</div>" + (f"\n{text(table.legend, kind='legend')}" if table.legend else "")
    )


def _kind(kind: str) -> str:
    return f' class="{kind}"' if kind else ""

"""The report as one page of HTML that needs no network: light and dark, on a screen or a phone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from string import Template

from sparse_offline_rl.reports.glance import glance
from sparse_offline_rl.reports.groups import Study
from sparse_offline_rl.reports.tables import Table

_FEW_ROWS = 20  # of a table that is open from the start


@dataclass(frozen=True)
class FigurePart:
    """A figure in the page."""

    name: str
    title: str
    caption: str
    svg: str
    listed: str  # as what the contents name it; empty for further pages of a figure


def html_page(
    study: Study, opening: str, figures: Sequence[FigurePart], tables: Sequence[Table], notes: Sequence[str]
) -> str:
    """The page: the first table, the figures, and the other tables, which can be opened."""
    first, *others = tables
    parts = [
        glance(study),
        _table(first, opened=len(first.rows) <= _FEW_ROWS),
        *map(_figure, figures),
        *map(_table, others),
    ]
    if notes:
        parts.append(
            f'<section><h2>Notes</h2><ul class="notes">{"".join(f"<li>{escape(it)}</li>" for it in notes)}</ul></section>'
        )
    links = [(f"table-{first.name}", first.title), *((it.name, it.listed) for it in figures if it.listed)]
    links += [(f"table-{table.name}", table.title) for table in others]
    contents = "".join(f'<a href="#{name}">{escape(title)}</a>' for name, title in links)
    return _PAGE.substitute(opening=escape(opening), contents=contents, body="\n".join(parts))


def _figure(figure: FigurePart) -> str:
    return (
        f'<section id="{figure.name}"><h2>{escape(figure.title)}</h2><p>{escape(figure.caption)}</p>'
        f'<div class="scroll"><div class="figure" role="img" aria-label="{escape(figure.title)}">{figure.svg}</div></div></section>'
    )


def _table(table: Table, opened: bool = False) -> str:
    kinds = [' class="number"' if column.form != "{}" else "" for column in table.columns]
    names = [escape(column.name) for column in table.columns]
    head = "".join(f'<th scope="col"{kind}>{name}</th>' for kind, name in zip(kinds, names, strict=True))
    rows = [[f"<td{kind}>{escape(text)}</td>" for kind, text in zip(kinds, row, strict=True)] for row in table.texts()]
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return (
        f'<section id="table-{table.name}"><details{" open" if opened else ""}><summary><h2>{escape(table.title)}</h2></summary><p>{escape(table.note)}</p>'
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></details></section>'
    )


_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Sparse offline RL: report</title>
<style>
:root { --ink: #1f2329; --soft: #5b6470; --page: #f5f6f8; --card: #ffffff; --line: #dfe3e8; --accent: #0a6fb5;
  --good: #d9f2e3; --fair: #fdf0cf; --poor: #fbdcdc; --shade: #00000059; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #a0a9b4; --page: #14171b; --card: #1d2126; --line: #333a43;
  --accent: #6db8f2; --good: #17452b; --fair: #4c3c0e; --poor: #551f22; --shade: #000000cc; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; margin: 0.5rem 0 0.2rem; }
h2 { font-size: 1.15rem; margin: 0 0 0.3rem; }
p { margin: 0 0 0.8rem; color: var(--soft); max-width: 75ch; }
nav { display: flex; flex-wrap: wrap; gap: 0.4rem; margin: 1rem 0; }
nav a { color: var(--accent); background: var(--card); border: 1px solid var(--line); border-radius: 99px; padding: 0.15rem 0.8rem;
  font-size: 0.9rem; text-decoration: none; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1rem 1.1rem; margin: 0 0 1rem; }
/* A shadow where something is hidden at a side: two of the colour of the card move with what scrolls and cover those that stay. */
.scroll { overflow-x: auto; background: linear-gradient(to right, var(--card) 40%, transparent) left / 2.5rem 100% no-repeat local,
  linear-gradient(to left, var(--card) 40%, transparent) right / 2.5rem 100% no-repeat local,
  radial-gradient(farthest-side at 0 50%, var(--shade), transparent) left / 1rem 100% no-repeat scroll,
  radial-gradient(farthest-side at 100% 50%, var(--shade), transparent) right / 1rem 100% no-repeat scroll; }
.figure svg { display: block; margin: 0 auto; width: 100%; height: auto; color: var(--ink); }
table { border-collapse: collapse; font-size: 0.88rem; width: 100%; }
th, td { padding: 0.35rem 0.6rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
thead th { white-space: normal; vertical-align: bottom; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td:last-child { white-space: normal; min-width: 14rem; }
tbody tr:hover { background: color-mix(in srgb, var(--accent) 8%, transparent); }
.glance { width: auto; }
.glance td, .glance thead th { text-align: center; min-width: 4.5rem; font-variant-numeric: tabular-nums; }
.glance td { font-weight: 600; padding: 0.2rem 0.35rem; white-space: nowrap; }
.glance tr > :first-child { position: sticky; left: 0; z-index: 1; background: var(--card); border-right: 1px solid var(--line); white-space: normal; }
.glance td > span { display: inline-block; min-width: 4.2rem; padding: 0.1rem 0.4rem; }
.glance .none { color: var(--soft); font-weight: 400; }
.good, .fair, .poor, .unsure { color: var(--ink); border-radius: 6px; padding: 0 0.3rem; }
.good { background: var(--good); } .fair { background: var(--fair); } .poor { background: var(--poor); }
#glance .notes { margin-top: 0.6rem; font-size: 0.9rem; }
.unsure { outline: 1px dashed var(--soft); outline-offset: -1px; }
sup { line-height: 0; margin-left: 0.15rem; } sup a { color: var(--accent); text-decoration: none; }
.hint { display: none; }
summary { cursor: pointer; } summary h2 { display: inline; }
details[open] summary { margin-bottom: 0.6rem; }
@media (max-width: 700px) { th, td { white-space: normal; } .hint { display: inline; }
  .glance tr > :first-child { min-width: 8.5rem; max-width: 40vw; overflow-wrap: break-word; } }
.notes { margin: 0; padding-left: 1.2rem; color: var(--soft); overflow-wrap: anywhere; }
</style>
</head>
<body>
<main>
<h1>Sparse offline RL</h1>
<p>$opening</p>
<nav>$contents</nav>
$body
</main>
</body>
</html>
""")

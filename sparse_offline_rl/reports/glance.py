"""The page's first table: how much of the dense agent's return each pruned experiment keeps."""

from __future__ import annotations

from html import escape

from sparse_offline_rl.reports.groups import Group, Panel, Study
from sparse_offline_rl.reports.tables import NO_VALUE, remarks, share_of

_GOOD, _FAIR = 0.95, 0.80  # of the dense return, from which on a share is green, and yellow
_FALLEN = 0.80  # of the dataset policy's return: with a dense agent below it a high share is no success


class _Footnotes:
    """Remarks under a table, as text that can be read without a mouse; equal ones share a number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def mark(self, remark: str) -> str:
        """The number that stands beside what is remarked on; nothing without a remark."""
        if not remark:
            return ""
        number = self._numbers.setdefault(remark, len(self._numbers) + 1)
        return f'<sup><a href="#glance-{number}">{number}</a></sup>'

    def listed(self) -> str:
        """All of them in order."""
        items = "".join(f'<li id="glance-{number}">{escape(text)}</li>' for text, number in self._numbers.items())
        return f'<ol class="notes">{items}</ol>' if items else ""


def glance(study: Study) -> str:
    """A row an experiment, a column a panel that has a dense run to compare with; nothing if none has."""
    panels = [panel for panel in study.panels if any(_dense_iqm(panel, group) for group in _pruned(panel))]
    if not panels:
        return ""
    groups = sorted(
        (it for panel in panels for it in _pruned(panel)), key=lambda it: (it.line, study.places.index(it.x))
    )
    labels = list(dict.fromkeys(group.label for group in groups))
    footnotes = _Footnotes()
    head = "".join(f'<th scope="col">{escape(panel.title)}</th>' for panel in panels)
    rows = "".join(f'<tr><th scope="row">{_name(it)}</th>{_cells(it, panels, footnotes)}</tr>' for it in labels)
    return (
        '<section id="glance"><h2>At a glance</h2><p>Share of the dense agent\'s return that is left (interquartile means over the '
        f'finished seeds). <span class="good">Green</span>: at least {_GOOD:.0%}, <span class="fair">yellow</span>: at least {_FAIR:.0%}, '
        f'<span class="poor">red</span>: less. <span class="unsure">Dashed</span>: the dense agent itself earns less than {_FALLEN:.0%} '
        "of what the dataset's policy does, so a high share says little. Numbers refer to the remarks below the table. "
        '<span class="hint">A wide table scrolls sideways.</span></p>'
        f'<div class="scroll"><table class="glance"><thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        f"{footnotes.listed()}</section>"
    )


def _pruned(panel: Panel) -> list[Group]:
    return [group for group in panel.groups if not group.dense]


def _dense_iqm(panel: Panel, group: Group) -> float | None:
    dense = panel.dense_of(group)
    return dense.iqm if dense else None


def _name(label: str) -> str:
    return escape(label).replace(" %", "&nbsp;%")


def _cells(label: str, panels: list[Panel], footnotes: _Footnotes) -> str:
    found = [(panel, next((it for it in _pruned(panel) if it.label == label), None)) for panel in panels]
    return "".join('<td class="none">no run</td>' if it is None else _cell(panel, it, footnotes) for panel, it in found)


def _cell(panel: Panel, group: Group, footnotes: _Footnotes) -> str:
    dense, share = panel.dense_of(group), share_of(group.iqm, _dense_iqm(panel, group))
    earned = share_of(dense.mean, panel.policy_of(dense)) if dense else None
    fallen = earned is not None and earned < _FALLEN
    against = [remarks(dense) if dense else "", f"{earned:.0%} of the dataset policy's return" if fallen else ""]
    found = [remarks(group), *(f"dense: {text}" for text in against if text)]
    mark = footnotes.mark("; ".join(text for text in found if text))
    if share is None:
        return f"<td>{NO_VALUE}{mark}</td>"
    return f'<td><span class="{_kind(share, fallen)}">{share:.1%}</span>{mark}</td>'


def _kind(share: float, fallen: bool) -> str:
    """How a share is coloured, as it is written: 94.96 % reads 95.0 %."""
    shown = round(share, 3)
    if shown < _FAIR:
        return "poor"
    return "unsure" if fallen else "good" if shown >= _GOOD else "fair"

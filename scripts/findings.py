"""Fill the tables of the findings from the CSVs in ``results``: ``python scripts/findings.py``; ``check=true`` only says what is out of date.

A table stands between ``<!-- table NAME -->`` and ``<!-- end -->`` in one of :data:`PAGES`; NAME is a key of
:data:`findings_list.TABLES`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from findings_list import TABLES
from findings_tables import ROOT
from pydantic import Field

from sparse_offline_rl.cli.arguments import Options, parse_options
from sparse_offline_rl.cli.errors import user_errors
from sparse_offline_rl.cli.main import run_main
from sparse_offline_rl.errors import UserError, reason
from sparse_offline_rl.files import write_bytes

PAGES = (
    "README.md",
    *(f"results/{it}/README.md" for it in ("batch", "learning", "masks", "study")),
)
_BLOCK = re.compile(r"(<!-- table (?P<name>\S+) -->\n)(?P<body>(?:(?!<!-- ).*\n)*)(?=<!-- end -->\n)")


class FindingsOptions(Options):
    """Fill the tables of the findings from the CSVs in results: python scripts/findings.py"""

    root: Path = Field(ROOT, description="the clone whose pages are filled, from the results of this one")
    check: bool = Field(False, description="only say what is out of date, and end with status 2 if something is")


def filled(page: Path) -> tuple[str, str]:
    """The text of a page, as it stands and with all its tables made anew.

    Raises UserError for a page that cannot be read, a table that is none of :data:`TABLES`, and markers that do not enclose one table.
    """
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{page} cannot be read ({reason(error)}): give root= the folder of a clone.") from None

    def fill(block: re.Match[str]) -> str:
        if block["name"] not in TABLES:
            raise UserError(f"{page}, {block['name']}: there is no such table; take one of {', '.join(TABLES)}.")
        return block[1] + TABLES[block["name"]](block["body"])

    new, count = _BLOCK.subn(fill, text)
    if not text.count("<!-- table") == text.count("<!-- end") == count:
        raise UserError(f"{page}: a table needs lines <!-- table NAME --> before and <!-- end --> after it; mend them.")
    return text, new


def main(arguments: Sequence[str] | None = None) -> None:
    """Do it; ``arguments`` are those of the command line by default."""
    with user_errors():
        options = parse_options(FindingsOptions, sys.argv[1:] if arguments is None else arguments)
        texts = {options.root / page: filled(options.root / page) for page in PAGES}
        stale = {page: new for page, (text, new) in texts.items() if new != text}
        if stale and options.check:
            raise UserError(f"{', '.join(map(str, stale))}: not what results say; run python scripts/findings.py.")
        for page, text in stale.items():
            write_bytes(page, text.encode())
            print(page)


if __name__ == "__main__":
    run_main(main)

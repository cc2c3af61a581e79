"""A table as GitHub reads it."""

from reports.tables import Entry, Row, Table
from reports.wording import (
    deviation,
    difference,
    groups,
    marks,
    notes,
    number,
    paper_header,
    published,
    without_repeats,
)


def markdown(table: Table) -> str:
    """Write a table as GitHub reads it."""
    above = (" ".join(column.headings).strip() for column in table.columns)
    headings = [*table.header, *above]
    lines = [
        f"**Table {table.number}.** {_text(table.title)}",
        "",
        _line(headings),
        _line([*("---" for _ in table.header), *("---:" for _ in table.columns)]),
    ]
    for group, rows in groups(table):
        lines.append(_line([f"*{group}*", *("" for _ in headings[1:])]))
        for row, named in zip(rows, without_repeats(rows), strict=True):
            header = map(_text, named.header)
            lines.append(_line([*header, *(_entry(row, entry) for entry in row.entries)]))
            if row.has_paper:
                before = (f"*{text}*" if text else "" for text in paper_header(row))
                lines.append(_line([*before, *map(_paper, row.entries)]))
    listed = [f"- {_text(note)}" for note in notes(table)]
    return "\n".join([*lines, "", *listed]).rstrip() + "\n"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _entry(row: Row, entry: Entry) -> str:
    text = number(entry)
    if entry.best:
        text = f"**{text}**"
    elif entry.second:
        text = f"<u>{text}</u>"
    return f"{text} {deviation(entry)}".rstrip() + marks(row, entry)


def _paper(entry: Entry) -> str:
    return f"{published(entry)} {difference(entry)}".strip()


def _text(text: str) -> str:
    for character in "\\`*_[]<>|":
        text = text.replace(character, "\\" + character)
    return text

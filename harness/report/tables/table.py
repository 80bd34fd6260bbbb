"""One table, written as markdown, LaTeX (booktabs) and CSV from the same cells."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "≈": r"$\approx$",
    "–": "--",
    "—": "---",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    "·": r"$\cdot$",
    "…": r"\ldots{}",
    "’": "'",
    "→": r"$\rightarrow$",
    "↑": r"$\uparrow$",
}


#: Widths of Computer Modern's characters, in em at 10 points; those of all others are nearly half an em.
_WIDTHS = {
    **dict.fromkeys("ijl.,:;'’|![]I", 0.28),
    **dict.fromkeys("ftrs()-", 0.39),
    **dict.fromkeys(" _", 0.33),
    **dict.fromkeys("cez", 0.45),
    **dict.fromkeys("bdhknpquvxy", 0.56),
    **dict.fromkeys("ABCDEFGHJKLNOPQRSTUVXYZwØ", 0.76),
    **dict.fromkeys("±−×≥≤≈+=<>%m→—", 0.8),
    **dict.fromkeys("MW…", 1.18),
}


class _Size(NamedTuple):
    """A size of type: its command, points an em, points an em of what is raised in it, and of a gap between columns."""

    command: str
    em: float
    raised: float
    gap: float


#: An em of a smaller size is wider than its points say, since its characters are.
_SIZES = (_Size("footnotesize", 8.5, 7.0, 8.0), _Size("scriptsize", 8.0, 6.8, 8.0), _Size("tiny", 6.8, 6.8, 5.0))
#: Width of A4 between margins of two centimetres, in points.
_TEXT_WIDTH = 483.0


def escape_latex(text: str) -> str:
    """Escape text for LaTeX with no package but booktabs; characters outside Latin-1 without a command become ``?``."""
    latex = dict(_LATEX)
    latex['"'] = "''"  # \textquotedbl needs the T1 encoding
    return "".join(latex.get(c, c if ord(c) < 256 else "?") for c in text)


@dataclass(frozen=True)
class Cell:
    """What stands in one place of a table.

    Attributes:
        text: plain text.
        bold: the best of its kind.
        mark: footnote marks such as ``†`` or ``≈``, raised.
    """

    text: str
    bold: bool = False
    mark: str = ""

    def markdown(self) -> str:
        """Return the cell for a pipe table."""
        text = self.text.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")
        return (f"**{text}**" if self.bold and text else text) + self.mark

    def latex(self) -> str:
        """Return the cell for a tabular."""
        text = escape_latex(self.text)
        text = rf"\textbf{{{text}}}" if self.bold and text else text
        return text + (rf"\textsuperscript{{{escape_latex(self.mark)}}}" if self.mark else "")

    def width(self, size: _Size) -> float:
        """Return about how wide the cell is in LaTeX, in points."""
        return size.em * _ems(self.text) * (1.16 if self.bold else 1.0) + size.raised * _ems(self.mark)


@dataclass(frozen=True)
class Table:
    """A table with the facts that its caption needs.

    Attributes:
        name: file name without ending.
        title: short heading.
        caption: one sentence, ready for a paper.
        columns: headings; a line break in one makes two lines in LaTeX and a space elsewhere.
        rows: cells, as many a row as there are columns.
        rules: indices of rows that a thin rule stands before.
        notes: what the marks mean.
        text_columns: how many columns from the left hold words (aligned left).
        records: the same content as plain values for the CSV; the printed text when empty.
    """

    name: str
    title: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    rules: frozenset[int] = frozenset()
    notes: Sequence[str] = ()
    text_columns: int = 1
    records: Sequence[dict[str, object]] = field(default_factory=tuple)

    def _headings(self) -> list[str]:
        """Return the headings, each in one line."""
        return [column.replace("\n", " ") for column in self.columns]

    def markdown(self) -> str:
        """Return a pipe table with its caption above and its notes below."""
        heads = [Cell(head).markdown() for head in self._headings()]
        align = [":--" if i < self.text_columns else "--:" for i in range(len(heads))]
        lines = [heads, align, *([cell.markdown() for cell in row] for row in self.rows)]
        body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        notes = "".join(f"\n{note}\n" for note in self.notes)
        return f"**{self.title}.** {self.caption}\n\n{body}\n{notes}"

    def _width(self, size: _Size, first: int) -> float:
        """Return about how wide the tabular is from a column on, in points."""
        columns = list(zip(self.columns, *self.rows, strict=True))[first:]
        widths = [
            max([*(size.em * _ems(line) for line in heading.split("\n")), *(cell.width(size) for cell in cells)])
            for heading, *cells in columns
        ]
        return sum(widths) + size.gap * (len(widths) - 1)

    def _layout(self) -> tuple[_Size, int]:
        """Return the largest type in which the tabular fits the text, and how many of its first columns go for that.

        What they name stands as lines of its own above the rows: first of columns that name several rows at once, then,
        to keep the type readable, of others that hold words too.
        """
        *readable, smallest = _SIZES
        naming = 0
        while naming < self.text_columns - 1 and any(not row[naming].text for row in self.rows):
            naming += 1
        most = self.text_columns if naming else 0
        ways = [(size, taken) for size in readable for taken in range(naming + 1)]
        ways += [(readable[-1], taken) for taken in range(naming + 1, most + 1)]
        fitting = (way for way in ways if self._width(*way) <= _TEXT_WIDTH)
        return next(fitting, (smallest, most))

    def latex(self) -> str:
        r"""Return a ``table`` environment; needs ``\usepackage{booktabs}`` and nothing else."""
        size, first = self._layout()
        align = "".join("l" if i < self.text_columns else "r" for i in range(len(self.columns)))[first:]
        lines = [
            r"\begin{table}[htbp]",
            r"\centering",
            rf"\caption{{{escape_latex(self.caption)}}}",
            rf"\label{{tab:{''.join(c if c.isalnum() else '-' for c in self.name)}}}",
            rf"\{size.command}",
            rf"\setlength{{\tabcolsep}}{{{size.gap / 2:g}pt}}",
            rf"\begin{{tabular}}{{@{{}}{align}@{{}}}}",
            r"\toprule",
            " & ".join(_latex_heading(c, side) for c, side in zip(self.columns[first:], align, strict=True)) + r" \\",
            r"\midrule",
        ]
        for index, row in enumerate(self.rows):
            if index in self.rules and index:
                lines.append(r"\midrule")
            for name in (cell for cell in row[:first] if cell.text):
                lines.append(rf"\multicolumn{{{len(align)}}}{{@{{}}l@{{}}}}{{\textit{{{name.latex()}}}}} \\")
            # A row that starts with [ would be read as the argument of the \\ before it.
            cells = [c.latex() for c in row[first:]]
            lines.append(("{}" if cells[0].startswith("[") else "") + " & ".join(cells) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}"]
        if self.notes:
            lines.append(r"\par\smallskip " + r"\par ".join(escape_latex(note) for note in self.notes))
        return "\n".join([*lines, r"\end{table}", ""])

    def csv(self) -> str:
        """Return plain values: numbers at full precision, an empty field where there is none."""
        records = self.records or [
            {head: cell.text for head, cell in zip(self._headings(), row, strict=True)} for row in self.rows
        ]
        stream = io.StringIO()
        writer = csv.DictWriter(stream, list(records[0]) if records else self._headings(), lineterminator="\n")
        writer.writeheader()
        for record in records:
            writer.writerow({k: _plain(v) for k, v in record.items()})
        return stream.getvalue()


def _ems(text: str) -> float:
    """Return about how wide a text is, in em."""
    return sum(_WIDTHS.get(character, 0.5) for character in text)


def _latex_heading(heading: str, side: str) -> str:
    """Return a heading for a tabular, its lines above each other."""
    lines = [escape_latex(line) for line in heading.split("\n")]
    stacked = r" \\ ".join(lines)
    return stacked if len(lines) == 1 else rf"\shortstack[{side}]{{{stacked}}}"


def _plain(value: object) -> object:
    """Return a value for CSV, floats in a form that is the same on every run."""
    if isinstance(value, float):
        return "" if value != value else f"{value:.10g}"
    return value

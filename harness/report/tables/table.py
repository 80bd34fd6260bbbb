"""One table, written as markdown, LaTeX (booktabs) and CSV from the same cells."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

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
}


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

    def _latex_size(self) -> tuple[str, str]:
        """Return the type size and column gap at which the widest rows fit between margins of two centimetres."""
        widths = [
            max(len(line) for cell in column for line in cell.split("\n"))
            for column in zip(self.columns, *([cell.markdown() for cell in row] for row in self.rows), strict=True)
        ]
        characters = sum(widths)
        if characters <= 90:
            return r"\footnotesize", r"\setlength{\tabcolsep}{4pt}"
        if characters <= 112:
            return r"\scriptsize", r"\setlength{\tabcolsep}{4pt}"
        return r"\tiny", r"\setlength{\tabcolsep}{2.5pt}"

    def latex(self) -> str:
        r"""Return a ``table`` environment; needs ``\usepackage{booktabs}`` and nothing else."""
        align = "".join("l" if i < self.text_columns else "r" for i in range(len(self.columns)))
        lines = [
            r"\begin{table}[htbp]",
            r"\centering",
            rf"\caption{{{escape_latex(self.caption)}}}",
            rf"\label{{tab:{''.join(c if c.isalnum() else '-' for c in self.name)}}}",
            *self._latex_size(),
            rf"\begin{{tabular}}{{@{{}}{align}@{{}}}}",
            r"\toprule",
            " & ".join(_latex_heading(c, align[i]) for i, c in enumerate(self.columns)) + r" \\",
            r"\midrule",
        ]
        for index, row in enumerate(self.rows):
            if index in self.rules and index:
                lines.append(r"\midrule")
            # A row that starts with [ would be read as the argument of the \\ before it.
            cells = [c.latex() for c in row]
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

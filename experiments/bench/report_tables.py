"""Reports as tables: one for a terminal, several side by side for a page."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from experiments.bench.report import Report


def shown(report: Report) -> tuple[Table, list[str]]:
    """The report for a terminal: a table, and the notes that its last column numbers, also the reasons of skips."""
    made = Table("what", "ratio", "median [95 %]", "bar", "outcome", "ours", "beside", "note", pad_edge=False)
    notes = list(dict.fromkeys(row.note for row in report.rows if row.note))
    before = ""
    for row in report.rows:
        value = "" if row.value is None else f"{row.value} {row.unit}"
        sides = ("" if side is None else str(side) for side in (row.ours, row.theirs))
        number = str(notes.index(row.note) + 1) if row.note else ""
        subject, before = "" if row.subject == before else row.subject, row.subject
        made.add_row(subject, row.measure, value, str(row.bar or ""), row.outcome, *sides, number)
    return made, [f"({number}) {note}" for number, note in enumerate(notes, 1)]


def beside(
    reports: Mapping[str, Report], subjects: Sequence[str], measures: Sequence[str] = ()
) -> tuple[list[str], list[list[str]], list[str]]:
    """Rows of several reports side by side, for a page: header, body, and reasons why values are missing.

    Parameters
    ----------
    reports : mapping of str to Report
        Reports by the names that head their columns.
    subjects, measures : sequence of str
        The rows to show; without measures, all rows of a subject.
    """
    wanted = {
        (row.subject, row.measure): row.unit
        for found in reports.values()
        for row in found.rows
        if row.subject in subjects and (not measures or row.measure in measures)
    }
    body: list[list[str]] = []
    reasons: dict[tuple[str, str], list[str]] = {}
    for (subject, measure), unit in wanted.items():
        cells: list[str] = []
        for name, found in reports.items():
            row = found.find(subject, measure)
            if row is None or row.value is None:
                note = next((r.note for r in found.rows if (r.subject, r.measure) == (subject, measure)), "no such row")
                reasons.setdefault((name, note), []).append(f"{subject} ({measure})")
                cells += ["", ""]
            else:
                shown_unit = {"x": " \N{MULTIPLICATION SIGN}", "": ""}.get(unit, f" {unit}")
                cells += [f"{row.value}{shown_unit}", f"{row.bar}: {row.outcome}" if row.bar else ""]
        if any(cells):
            body.append([subject, measure, *cells])
    header = ["what", "ratio", *[text for name in reports for text in (name, "bar")]]
    return header, body, [f"{name}: {'; '.join(what)} ({note})" for (name, note), what in reasons.items()]

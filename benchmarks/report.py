"""From measurements to the table: ratios, goals, and what must be known to believe them."""

from __future__ import annotations

from typing import Any

from benchmarks.figures import NOTHING, TIMES, UNITS, microseconds, ratio
from benchmarks.runs import Outcome, short
from benchmarks.table import Row

DISTURBED = 0.2
"""Cores that other programs may use during a measurement before it is called disturbed."""

_NOT_MEASURED = "was not measured"
_BETWEEN = " · "

Outcomes = dict[str, dict[str, Outcome]]
"""measurement → variant → outcome"""


def judge(row: Row, outcomes: Outcomes) -> dict[str, Any]:
    """A row with its figures filled in. ``met`` is None where there is no goal or no figure."""
    variants = outcomes[row.measurement]
    found: dict[str, Any] = {
        "title": row.title,
        "measurement": row.measurement,
        "figure": row.figure,
        "unit": row.unit,
        "subject": row.subject,
        "against": row.against,
        "at_least": row.at_least,
        "at_most": row.at_most,
        "value": _figure(row.subject, row, variants, outcomes),
        "other": None,
        "ratio": None,
        "met": None,
        "why": "",
    }
    judged = found["value"]
    if row.against is not None:
        found["other"] = _figure(row.against, row, variants, outcomes)
        judged = None
        if found["value"] is not None and found["other"] is not None:
            own, other = (found["other"], found["value"]) if row.speed else (found["value"], found["other"])
            judged = found["ratio"] = own / other if other else None
    if judged is None:
        found["why"] = _why(row, outcomes)
    elif row.at_least is not None:
        found["met"] = judged >= row.at_least
    elif row.at_most is not None:
        found["met"] = judged <= row.at_most
    return found


def _find(name: str, variants: dict[str, Outcome], outcomes: Outcomes) -> Outcome | None:
    if name in variants:
        return variants[name]
    return next((others[name] for others in outcomes.values() if name in others), None)


def _figure(name: str, row: Row, variants: dict[str, Outcome], outcomes: Outcomes) -> float | None:
    outcome = _find(name, variants, outcomes)
    return outcome.median(row.figure) if outcome is not None else None


def _why(row: Row, outcomes: Outcomes) -> str:
    reasons = []
    for name in filter(None, (row.subject, row.against)):
        outcome = _find(name, outcomes[row.measurement], outcomes)
        if outcome is None:
            reasons.append(f"{name} {_NOT_MEASURED}")
        elif not outcome.rounds:
            errors = "; ".join(dict.fromkeys(map(short, outcome.errors)))
            reasons.append(f"{name}: {outcome.missing or errors or 'no round'}")
    return _BETWEEN.join(reasons)


def _goal(judged: dict[str, Any]) -> str:
    bound = judged["at_least"] if judged["at_least"] is not None else judged["at_most"]
    if bound is None:
        return ""
    sign = "≥" if judged["at_least"] is not None else "≤"
    shown = f"{bound:g}{TIMES}" if judged["against"] is not None else UNITS[judged["unit"]](bound)
    return f"{sign} {shown}"


def rows_of_table(judged: list[dict[str, Any]]) -> list[list[str]]:
    """The table, header first."""
    lines = [["measure", "Throughway", "against", "its figure", "ratio", "goal", "met"]]
    for one in judged:
        show = UNITS[one["unit"]]
        lines.append(
            [
                one["title"],
                show(one["value"]) if one["value"] is not None else NOTHING,
                one["against"] or "",
                show(one["other"]) if one["other"] is not None else (NOTHING if one["against"] else ""),
                ratio(one["ratio"]) if one["ratio"] is not None else "",
                _goal(one),
                {True: "yes", False: "no", None: "?" if one["why"] else ""}[one["met"]],
            ]
        )
    return lines


def rows_of_budget(outcomes: Outcomes) -> list[list[str]]:
    """CPU time of a no-op task by process, of each contender of the throughput measurement; header first."""
    lines = [["CPU time of a task", "all processes", "by process"]]
    for name in ("throughput", "floor"):
        for variant, outcome in outcomes.get(name, {}).items():
            total = outcome.median("cpu_per_task")
            if total is None:
                continue
            roles: dict[str, list[float]] = {}
            for one in outcome.rounds:
                for part, used in one["cpu_per_task_by_role"].items():
                    roles.setdefault(part, []).append(used)
            means = sorted(
                ((sum(used) / len(outcome.rounds), part) for part, used in roles.items()), reverse=True
            )
            shown = ", ".join(f"{part} {microseconds(used)}" for used, part in means if used >= 0.005 * total)
            lines.append([variant, microseconds(total), shown])
    return lines


def notes(judged: list[dict[str, Any]], outcomes: Outcomes) -> list[str]:
    """What a reader must know: what is missing, what failed, what was disturbed, what was left behind."""
    reasons = (reason for one in judged for reason in one["why"].split(_BETWEEN))
    found = [reason for reason in dict.fromkeys(reasons) if reason.endswith(_NOT_MEASURED)]
    for measurement, variants in outcomes.items():
        for variant, outcome in variants.items():
            where = f"{measurement}, {variant}"
            if outcome.missing:
                found.append(f"{where}: missing: {outcome.missing}")
            if outcome.errors:
                errors = "; ".join(dict.fromkeys(map(short, outcome.errors)))
                found.append(f"{where}: rounds that failed: {len(outcome.errors)}: {errors}")
            foreign = [
                one["foreign_cpu"] for one in outcome.rounds if one.get("foreign_cpu", 0.0) > DISTURBED
            ]
            if foreign:
                found.append(
                    f"{where}: disturbed in {len(foreign)} of {len(outcome.rounds)} rounds: "
                    f"other programs kept up to {max(foreign):.1f} cores busy"
                )
            left = [one["left_behind"] for one in outcome.rounds if one.get("left_behind")]
            if left:
                found.append(f"{where}: left {max(map(len, left))} processes behind after it was stopped")
            trouble = {one["trouble"] for one in outcome.rounds if one.get("trouble")}
            found.extend(f"{where}: {text}" for text in sorted(trouble))
    return found


def markdown(lines: list[list[str]]) -> str:
    """A Markdown table; the first line is its header."""
    header, *rest = lines
    parts = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    parts += ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in rest]
    return "\n".join(parts)


def plain(lines: list[list[str]]) -> str:
    """A table for a terminal; the first line is its header."""
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    texts = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    texts.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(texts)

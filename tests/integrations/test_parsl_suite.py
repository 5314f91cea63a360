"""What the runner of Parsl's own tests takes for a failure."""

from __future__ import annotations

from tests.integrations.parsl.suite.run import PARTS, Part, Report, complaints

PART = Part("part", "local", ("test_htex",), 2)
LISTED = {"test_htex.test_a::test_old": "looks inside"}


def report(trouble: str = "", **outcomes: str) -> Report:
    return Report(
        PART, 1.0, {f"test_htex.test_a::{name}": found for name, found in outcomes.items()}, trouble=trouble
    )


def test_all_is_well_when_only_what_is_listed_fails() -> None:
    found = report(test_one="passed", test_two="passed", test_three="skipped", test_old="failed")
    assert complaints(found, LISTED, exact=True) == []


def test_every_difference_is_told() -> None:
    found = report(test_one="failed", test_two="passed", test_old="passed")
    assert complaints(found, LISTED, exact=True) == [
        "failed: test_htex.test_a::test_one",
        "listed as not applicable, and passed: test_htex.test_a::test_old",
    ]
    found = report(test_one="passed")
    assert complaints(found, LISTED, exact=True) == [
        "listed as not applicable, and not there: test_htex.test_a::test_old",
        "1 passed, where 2 have to",
    ]
    assert complaints(report(trouble="stopped"), {}, exact=True)[0] == "stopped"


def test_another_version_may_have_other_tests_but_none_may_fail() -> None:
    assert complaints(report(test_one="passed"), LISTED, exact=False) == []
    assert complaints(report(test_one="failed"), LISTED, exact=False) == [
        "failed: test_htex.test_a::test_one"
    ]


def test_each_listed_test_belongs_to_one_part() -> None:
    import tomllib
    from pathlib import Path

    from tests.integrations.parsl.suite import run

    listed = tomllib.loads((Path(run.__file__).parent / "not_applicable.toml").read_text("utf-8"))
    for name, reason in listed["tests"].items():
        assert sum(name.startswith(part.targets) for part in PARTS) == 1, name
        assert reason

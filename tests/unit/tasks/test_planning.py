"""The plan is a pure function of keys and rows."""

from hypothesis import given
from hypothesis import strategies as st

from tasks.ledger import Row
from tasks.planning import GROUPS, Plan, PlanPart, TextPlan, meanings, plan
from tasks.records import FailureClass, Reason, Stage

KEYS = st.sampled_from(["k1", "k2"])
NAMES = st.sampled_from([f"c{number}" for number in range(8)])


def row(name: str, state: str, key: str, attempts: int) -> Row:
    return Row(
        clip_id=name,
        stage=Stage.CURATE,
        state=state,  # type: ignore[arg-type]  # one of the three
        key=key,
        attempts=attempts,
        reason=Reason.NO_FACE if state == "impossible" else None,
        failure=FailureClass.CRASH if state == "failed" else None,
    )


WANTED = st.dictionaries(NAMES, KEYS)
ROWS = st.dictionaries(
    NAMES, st.tuples(st.sampled_from(["done", "impossible", "failed"]), KEYS, st.integers(0, 5))
).map(lambda known: {name: row(name, *said) for name, said in known.items()})


def group_of(planned: Plan, name: str) -> str:
    groups = [group for group in Plan.model_fields if name in getattr(planned, group)]
    assert len(groups) == 1, f"{name} is in {groups}"
    return groups[0]


@given(WANTED, ROWS, st.integers(1, 4), st.booleans())
def test_every_wanted_id_is_in_exactly_one_group(
    wanted: dict[str, str], rows: dict[str, Row], attempts: int, rerun: bool
) -> None:
    planned = plan(wanted, rows, attempts=attempts, rerun=rerun)
    everything = [name for group in Plan.model_fields for name in getattr(planned, group)]
    assert sorted(everything) == sorted(wanted)
    assert set(planned.todo) == set(planned.new + planned.changed + planned.retryable)
    order = list(wanted)
    for group in Plan.model_fields:
        assert list(getattr(planned, group)) == sorted(getattr(planned, group), key=order.index)


@given(WANTED, ROWS, st.sets(NAMES), st.booleans())
def test_what_was_lost_is_made_again_and_nothing_else_moves(
    wanted: dict[str, str], rows: dict[str, Row], lost: set[str], rerun: bool
) -> None:
    plain, planned = plan(wanted, rows, rerun=rerun), plan(wanted, rows, rerun=rerun, lost=lost)
    assert set(planned.lost) == set(plain.done) & lost
    assert planned.todo == plain.todo + planned.lost
    assert set(planned.done) == set(plain.done) - lost
    for group in set(Plan.model_fields) - {"done", "lost"}:
        assert getattr(planned, group) == getattr(plain, group)


@given(WANTED, ROWS, st.integers(1, 4), st.booleans())
def test_each_group_means_what_it_says(
    wanted: dict[str, str], rows: dict[str, Row], attempts: int, rerun: bool
) -> None:
    planned = plan(wanted, rows, attempts=attempts, rerun=rerun)
    for name, key in wanted.items():
        known, group = rows.get(name), group_of(planned, name)
        if known is None:
            assert group == "new"
        elif known.key != key:
            assert group == "changed"
        elif known.state == "done":
            assert group == "done"
        elif rerun:
            assert group == "retryable"
        elif known.state == "impossible":
            assert group == "impossible"
        else:
            assert group == ("retryable" if known.attempts < attempts else "exhausted")


@given(WANTED)
def test_when_all_is_done_there_is_nothing_to_do(wanted: dict[str, str]) -> None:
    rows = {name: row(name, "done", key, 0) for name, key in wanted.items()}
    for rerun in (False, True):
        planned = plan(wanted, rows, rerun=rerun)
        assert planned.todo == ()
        assert str(planned) == f"nothing to do, {len(wanted)} done" if wanted else "nothing to do"


def test_a_line_says_how_many_are_in_each_group() -> None:
    planned = plan(
        {"a": "k1", "b": "k2", "c": "k1"}, {"b": row("b", "done", "k1", 0), "c": row("c", "failed", "k1", 3)}
    )
    assert str(planned) == "1 new, 1 changed, 1 exhausted"


def test_groups_are_those_of_a_plan() -> None:
    assert set(GROUPS) == set(Plan.model_fields)
    assert list(meanings(GROUPS)) == ["retryable", "lost", "impossible", "exhausted"]
    assert "`rerun` tries again" in meanings(["done", "exhausted"])["exhausted"]


def test_a_part_is_what_is_not_done_of_a_feature_and_what_is_changed_of_a_stage() -> None:
    numbers = {"done": 9, "impossible": 1, "exhausted": 1, "changed": 3, "new": 2}
    told = {"numbers": numbers, "changed_for": {"a crop": 2, "a net": 1}, "looked_at": 3}
    assert PlanPart(feature="video", **told).text() == (
        "video     2 new, 3 changed: 2 a crop and 1 a net; 1 impossible, 1 exhausted"
    )
    assert PlanPart(**told).text() == "changed: 2 a crop and 1 a net"
    some = PlanPart(numbers={"changed": 9}, changed_for={"a crop": 4}, looked_at=4)
    assert some.text() == "changed: a crop (of the first 4)"
    assert PlanPart(feature="video", numbers={"done": 9}).text() == PlanPart(numbers={"new": 9}).text() == ""
    assert PlanPart(feature="video", numbers={"changed": 9}).text() == "video     9 changed"


def test_a_plan_of_captions_says_what_runs_and_why() -> None:
    idle = TextPlan(distinct=3, new=0, done=2, refused=1)
    assert (idle.todo, idle.text()) == (0, "nothing to do, 2 done, 1 refused")
    due = TextPlan(distinct=5, new=2, retryable=1, done=2)
    assert (due.todo, due.text()) == (3, "5 captions: 2 new, 1 retryable, 2 done")
    anew = TextPlan(distinct=1, new=1, done=0, by_others=7).text()
    assert anew == "1 caption: 1 new; all anew: the 7 texts there are by another encoder, or other weights or settings"

"""What a run would compute and why, decided from keys alone.

A key says all that a result was made from. An impossibility is a fact about its key too: a new download, detector or
setting changes the key and the fact is looked at anew; with the same key it stands until someone asks for a rerun.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pydantic import Field

from dualforce_model.config import Frozen
from tasks.ledger_tables import Row, State

GROUPS = ("new", "changed", "retryable", "lost", "done", "impossible", "exhausted")
_WHY = {  # of the others the name says it, or of what is changed each part of a plan
    "retryable": "failed before, with attempts left",
    "lost": "made once, but gone or damaged since",
    "impossible": "refused for what the clip is; tried again when what it is made from changes, or by `rerun --clip`",
    "exhausted": "failed too often; `rerun` tries again, `failures` says why",
}
_FEATURE_WIDTH = 9


@dataclass(frozen=True, slots=True)
class Standing:
    """What a plan asks of a row: small, for a plan holds those of the whole data set."""

    clip_id: str
    feature: str
    key: str
    state: State
    attempts: int


class Plan(Frozen):
    """Every wanted id in exactly one group, each group in the order of the request."""

    new: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    retryable: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    done: tuple[str, ...] = ()
    impossible: tuple[str, ...] = ()
    exhausted: tuple[str, ...] = ()

    @property
    def todo(self) -> tuple[str, ...]:
        """What a run would compute: new, changed, retryable, then lost."""
        return self.new + self.changed + self.retryable + self.lost

    @property
    def total(self) -> int:
        """How many ids were sorted."""
        return sum(len(getattr(self, group)) for group in GROUPS)

    def __str__(self) -> str:
        if not self.todo:
            return ", ".join(["nothing to do", *self._numbers()])
        return ", ".join(self._numbers())

    def _numbers(self) -> list[str]:
        return [f"{len(getattr(self, group))} {group}" for group in GROUPS if getattr(self, group)]


def plan(
    wanted: Mapping[str, str],
    rows: Mapping[str, Row | Standing],
    *,
    attempts: int = 3,
    rerun: bool = False,
    lost: Collection[str] = (),
) -> Plan:
    """Sort wanted ids (id -> key) by what the ledger knows of them (id -> row); rows nobody wants are left alone.

    After `attempts` charged failures with the same key an id is exhausted. With `rerun`, exhausted and impossible
    ids count as retryable. `lost` are ids whose result was looked for and not found whole: done ones are made again.
    """
    groups: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name, key in wanted.items():
        group = _group(key, rows.get(name), attempts, rerun)
        groups["lost" if group == "done" and name in lost else group].append(name)
    return Plan(**{group: tuple(ids) for group, ids in groups.items()})


def _group(key: str, row: Row | Standing | None, attempts: int, rerun: bool) -> str:
    if row is None:
        return "new"
    if row.key != key:
        return "changed"
    if row.state == "done":
        return "done"
    if rerun:
        return "retryable"
    if row.state == "impossible":
        return "impossible"
    return "retryable" if row.attempts < attempts else "exhausted"


def meanings(groups: Collection[str]) -> dict[str, str]:
    """What it means to be in these groups, of those whose name does not say it."""
    return {group: why for group, why in _WHY.items() if group in groups}


class PlanPart(Frozen):
    """A plan's numbers of one feature, or of a stage that has only one thing to make; and why what changed did."""

    feature: str = Field("", description="of extract; empty at the other stages")
    numbers: dict[str, int] = Field(description="ids by group, of the groups that have any")
    changed_for: dict[str, int] = Field({}, description="what is changed, by the reason, as far as it was looked at")
    looked_at: int = Field(0, ge=0, description="how many of those that are changed were looked at: the first")

    def text(self) -> str:
        """For people: a feature with all that is not done, a stage with why what changed did; or nothing."""
        if not self.feature:
            return f"changed{self._why_changed()}" if self.changed_for else ""  # the stage's line has the numbers
        told = {group: f"{self.numbers[group]} {group}" for group in GROUPS if self.numbers.get(group)}
        if "changed" in told:
            told["changed"] += self._why_changed()
        first = ", ".join(told[group] for group in ("new", "changed") if group in told)
        others = ", ".join(told[group] for group in told if group not in ("new", "changed", "done"))
        said = "; ".join(filter(None, (first, others)))  # why what is changed is may have commas of its own
        return f"{self.feature:<{_FEATURE_WIDTH}} {said}" if said else ""

    def _why_changed(self) -> str:
        if not self.changed_for:
            return ""
        causes = [why if len(self.changed_for) == 1 else f"{count} {why}" for why, count in self.changed_for.items()]
        partly = f" (of the first {self.looked_at})" if self.looked_at < self.numbers["changed"] else ""
        return f": {' and '.join(causes)}{partly}"


class TextPlan(Frozen):
    """What extract would encode of the captions that clips have, each counted once."""

    distinct: int = Field(ge=0)
    new: int = Field(ge=0, description="never tried")
    retryable: int = Field(0, ge=0, description="failed or refused, and tried again")
    done: int = Field(ge=0, description="encoded already")
    refused: int = Field(0, ge=0, description="refused before, and left so: their clips are told the prompt")
    by_others: int = Field(0, ge=0, description="texts that only other encoders made, where this one made none")

    @property
    def todo(self) -> int:
        """How many a run would encode."""
        return self.new + self.retryable

    def text(self) -> str:
        """For people."""
        groups = ("new", "retryable", "done", "refused")
        counts = [f"{getattr(self, group)} {group}" for group in groups if getattr(self, group)]
        head = f"{self.distinct} caption{'' if self.distinct == 1 else 's'}: " if self.todo else "nothing to do, "
        anew = f"; all anew: the {self.by_others} texts there are by another encoder, or other weights or settings"
        return head + (", ".join(counts) or "no clip has come this far") + (anew if self.by_others else "")

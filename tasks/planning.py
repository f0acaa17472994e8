"""What a run would compute and why, decided from keys alone.

A key says all that a result was made from. An impossibility is a fact about its key too: a new download, detector or
setting changes the key and the fact is looked at anew; with the same key it stands until someone asks for a rerun.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pydantic import Field

from dualforce_model.config import Frozen
from tasks.ledger_tables import Row, State

_WHY = {
    "new": "never tried",
    "changed": "made from something else than now",
    "retryable": "failed, attempts left; or a rerun asks",
    "lost": "made once, but gone or damaged since",
    "done": "there already",
    "impossible": "can never pass as it is",
    "exhausted": "failed too often; `rerun` tries again",
}
_TODO = ("new", "changed", "retryable", "lost")
_EXAMPLES = 3


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
        return sum(len(getattr(self, group)) for group in _WHY)

    def markdown(self) -> str:
        """Table of the groups: how many, why, and the first few ids."""
        lines = ["| group | number | runs | why | first |", "| --- | ---: | --- | --- | --- |"]
        for group, why in _WHY.items():
            ids = getattr(self, group)
            runs = "yes" if group in _TODO else "no"
            lines.append(f"| {group} | {len(ids)} | {runs} | {why} | {', '.join(ids[:_EXAMPLES])} |")
        return "\n".join(lines)

    def __str__(self) -> str:
        if not self.todo:
            return ", ".join(["nothing to do", *self._numbers()])
        return ", ".join(self._numbers())

    def _numbers(self) -> list[str]:
        return [f"{len(getattr(self, group))} {group}" for group in _WHY if getattr(self, group)]


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
    groups: dict[str, list[str]] = {group: [] for group in _WHY}
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

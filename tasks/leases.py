"""Who may write a stage of a data set: one process at a time, proved by a number that grows at each takeover.

A lease is kept alive by renewal and falls free when it is released, runs out, or its holder's process is gone. A
holder that was only asleep finds its number outdated: its writes are refused, so no two runs ever mix their rows.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from dualforce_model.errors import BusyError, InfrastructureError
from tasks.holder import Holder
from tasks.ledger_tables import Holding, holding_of, leases
from tasks.records import Stage

log = logging.getLogger(__name__)

LIVES = 4  # renewals that may fail in a row before the lease runs out
POLL_S = 0.5

# Opens one write transaction; raises InfrastructureError when the database gives way.
Writing = Callable[[], AbstractContextManager[sa.Connection]]


class LeaseHeld(BusyError):
    """Another living run works on the stage; `holding` says who."""

    def __init__(self, holding: Holding) -> None:
        self.holding = holding
        since = datetime.fromtimestamp(holding.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        super().__init__(
            f"{holding.stage} of {holding.dataset} is held by process {holding.holder.pid} on {holding.holder.host}, "
            f"run {holding.run_id}, since {since}; wait for it to end, stop it, or allow a longer wait"
        )


class FencedOut(InfrastructureError):
    """This run's lease was taken over; nothing of the refused write was stored."""


@dataclass(frozen=True)
class Lease:
    """The right to write one stage of one data set, as long as no larger fence was given out."""

    dataset: str
    stage: Stage
    run_id: str
    fence: int


@contextmanager
def held(
    writing: Writing, dataset: str, stage: Stage, run_id: str, *, wait_s: float, renew_s: float
) -> Iterator[Lease]:
    """Hold a lease for the block, renewed by a thread. Raises LeaseHeld after `wait_s` of asking."""
    lease = _take(writing, dataset, stage, run_id, wait_s, renew_s * LIVES)
    stop = threading.Event()
    renewing = threading.Thread(target=_renew, args=(writing, lease, renew_s, stop), name=f"lease-{stage}", daemon=True)
    renewing.start()
    try:
        yield lease
    finally:
        stop.set()
        renewing.join()
        with writing() as connection:
            connection.execute(leases.update().where(*_mine(lease)).values(released=True))


def check(connection: sa.Connection, lease: Lease) -> None:
    """Refuse a write under an outdated fence, and keep takeovers out until the transaction ends."""
    found = (
        connection.execute(sa.select(leases).where(*_of(lease.dataset, lease.stage)).with_for_update()).mappings().one()
    )
    if found["fence"] != lease.fence or found["released"]:
        raise FencedOut(
            f"run {lease.run_id} lost {lease.stage} of {lease.dataset} to run {found['run_id']} on {found['host']} "
            f"(fence {lease.fence}, now {found['fence']}); its rows were refused, start it again to go on"
        )


def holdings(connection: sa.Connection, dataset: str) -> list[Holding]:
    """Leases in force, by stage."""
    free = leases.c.released | (leases.c.expires_at <= _now(connection))
    query = sa.select(leases).where(leases.c.dataset == dataset, ~free).order_by(leases.c.stage)
    found = [holding_of(columns) for columns in connection.execute(query).mappings()]
    return [holding for holding in found if not holding.holder.is_gone()]


def _take(writing: Writing, dataset: str, stage: Stage, run_id: str, wait_s: float, life_s: float) -> Lease:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            with writing() as connection:
                taken = _try_take(connection, dataset, stage, run_id, life_s)
        except sa.exc.IntegrityError:  # two first takers met; the primary key let the other through
            continue
        if isinstance(taken, Lease):
            return taken
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise LeaseHeld(taken)
        time.sleep(min(POLL_S, left_s))


def _try_take(connection: sa.Connection, dataset: str, stage: Stage, run_id: str, life_s: float) -> Lease | Holding:
    """The lease, or who has it. The row is locked from the look to the commit."""
    where, now, holder = _of(dataset, stage), _now(connection), Holder.current()
    found = connection.execute(sa.select(leases).where(*where).with_for_update()).mappings().one_or_none()
    fence = 1
    if found is not None:
        fence = int(found["fence"]) + 1
        holding = holding_of(found)
        if not found["released"] and found["expires_at"] > now and not holding.holder.is_gone():
            return holding
        if not found["released"]:
            log.warning("taking over %s of %s from run %s: it ended without a word", stage, dataset, holding.run_id)
    values = {"fence": fence, "run_id": run_id, "since": now, "expires_at": now + life_s, "released": False}
    values |= holder.model_dump()
    if found is None:
        connection.execute(leases.insert().values(dataset=dataset, stage=stage.value, **values))
    else:
        connection.execute(leases.update().where(*where).values(**values))
    return Lease(dataset, stage, run_id, fence)


def _renew(writing: Writing, lease: Lease, renew_s: float, stop: threading.Event) -> None:
    """Push the end of the lease forward until told to stop or the lease is someone else's."""
    while not stop.wait(renew_s):
        try:
            with writing() as connection:
                end = _now(connection) + renew_s * LIVES
                kept = connection.execute(leases.update().where(*_mine(lease)).values(expires_at=end)).rowcount
        except InfrastructureError as error:
            log.warning("could not renew the lease on %s of %s, will try again: %s", lease.stage, lease.dataset, error)
            continue
        if not kept:
            log.error(
                "the lease on %s of %s was taken over; further writes will be refused", lease.stage, lease.dataset
            )
            return


def _of(dataset: str, stage: Stage) -> tuple[sa.ColumnElement[bool], ...]:
    return (leases.c.dataset == dataset, leases.c.stage == stage.value)


def _mine(lease: Lease) -> tuple[sa.ColumnElement[bool], ...]:
    return (*_of(lease.dataset, lease.stage), leases.c.fence == lease.fence, ~leases.c.released)


def _now(connection: sa.Connection) -> float:
    """Seconds since 1970 by the clock all holders share: the server's, or this machine's for a file."""
    if connection.dialect.name == "postgresql":
        return float(connection.execute(sa.select(sa.extract("epoch", sa.func.clock_timestamp()))).scalar_one())
    return time.time()

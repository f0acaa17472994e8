"""One worker pool for a chain of flows: starting Ray costs seconds, so nested stages share what is already open."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from tasks.pool import Pool, PoolConfig, make_pool

_open: dict[str, Callable[[], Pool]] = {}  # configuration -> the pool of an enclosing block in this process


@contextmanager
def shared_pool(config: PoolConfig) -> Iterator[Callable[[], Pool]]:
    """A function that gives the pool, started at its first call; an enclosing block of equal config lends its own."""
    name = config.model_dump_json()
    if name in _open:
        yield _open[name]
        return
    with ExitStack() as stack:
        made: list[Pool] = []

        def pool() -> Pool:
            if not made:
                made.append(stack.enter_context(make_pool(config)))
            return made[0]

        _open[name] = pool
        try:
            yield pool
        finally:
            del _open[name]

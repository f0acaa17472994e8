"""One worker pool for a chain of flows: starting Ray costs seconds, so nested stages share what is already open."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from tasks.pool import Pool, PoolConfig, make_pool

_open: dict[str, Callable[[], Pool]] = {}  # configuration -> the pool of an enclosing block in this process
_started: dict[str, Pool] = {}  # those of them that were called for


@contextmanager
def shared_pool(config: PoolConfig) -> Iterator[Callable[[], Pool]]:
    """A function that gives the pool, started at its first call; an enclosing block of equal config lends its own."""
    name = config.model_dump_json()
    if name in _open:
        yield _open[name]
        return
    with ExitStack() as stack:

        def pool() -> Pool:
            if name not in _started:
                _started[name] = stack.enter_context(make_pool(config))
            return _started[name]

        _open[name] = pool
        try:
            yield pool
        finally:
            del _open[name]
            _started.pop(name, None)


def dismiss_workers(config: PoolConfig) -> None:
    """End the workers of an enclosing block's pool, if it has any: they hold memory, and start anew when called for."""
    if (pool := _started.get(config.model_dump_json())) is not None:
        pool.close()

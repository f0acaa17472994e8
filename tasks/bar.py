"""A progress bar for work outside a flow run, for which Prefect need not be loaded."""

import sys

from tqdm import tqdm


def bar(what: str, total: int, unit: str) -> tqdm:
    """A bar on a terminal, a line now and then elsewhere; both on standard error."""
    interactive = sys.stderr.isatty()
    return tqdm(
        total=total,
        desc=f"{what:<9}",
        unit=unit,
        file=sys.stderr,
        mininterval=0.2 if interactive else 5.0,
        dynamic_ncols=interactive,
        ncols=None if interactive else 100,
    )

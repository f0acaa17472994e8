"""The demo as a command: makes the clips, serves them on loopback, runs the flow on a Prefect server of its own."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from dualforce_model.config import read_settings, shipped, validate
from dualforce_model.storage import sweep_temporaries
from flows.terminal import prefect_for
from tasks.process import folder_lock

if TYPE_CHECKING:
    from flows.demo import DemoReport, DemoRun
    from tasks.synthetic.corpus import Corpus

STALE_S = 600.0


def run_demo(
    out: Path, seed: int, config: Path, overrides: Sequence[str], *, port: int | None, heal: bool
) -> "DemoReport":
    """The chain, or with `heal` a rerun of what failed. Goes on where an earlier call was stopped."""
    started = time.monotonic()
    with folder_lock(out, "demo"), prefect_for(out, port) as ready:
        sweep_temporaries(out, STALE_S)
        from flows.demo import DemoRun, demo, heal_demo

        run = validate(DemoRun, demo_settings(out, seed, config, overrides), str(config))
        corpus = _corpus(run)
        tell(f"Prefect UI: {ready()} (while this runs; later: dualforce up --out {out})")
        with _served(run, corpus, healed=heal):
            return heal_demo(run) if heal else demo(run, corpus, time.monotonic() - started)


def demo_settings(out: Path, seed: int, config: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """A demo's YAML with what follows from its folder and seed."""
    settings = read_settings(shipped(str(config)), overrides)
    pipeline = settings.setdefault("pipeline", {})
    pipeline["place"] = {"dataset": "demo", "home": str(out)}
    pipeline.setdefault("acquire", {})["source"] = {"name": "hdtf", "folder": str(out / "corpus" / "list")}
    pipeline.setdefault("snapshot", {}).setdefault("tag", "demo")
    for group in (
        settings.setdefault("corpus", {}),
        pipeline.setdefault("train", {}),
        settings.setdefault("generate", {}),
    ):
        group["seed"] = seed
    return settings


def tell(line: str) -> None:
    """A line for the person who watches; answers for scripts go to standard output alone."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _corpus(run: "DemoRun") -> "Corpus":
    """The demo's clips; made once, while the Prefect server starts."""
    from tasks.synthetic.corpus import make_corpus

    interactive = sys.stderr.isatty()
    with tqdm(
        desc=f"{'clips':<9}", unit="clip", file=sys.stderr, mininterval=0.2 if interactive else 5.0, ncols=100
    ) as bar:

        def progress(done: int, total: int, name: str) -> None:
            bar.total = total
            bar.set_postfix_str(name, refresh=False)
            bar.update(done - bar.n)

        return make_corpus(run.corpus, run.corpus_folder, progress)


@contextmanager
def _served(run: "DemoRun", corpus: "Corpus", *, healed: bool) -> Iterator[None]:
    """The clips on a loopback port, misbehaving as planned, and a list that points there."""
    from tasks.synthetic.corpus import MEDIA, write_list
    from tasks.synthetic.server import LoopbackServer

    faults = {name: fault for name, fault in corpus.faults().items() if not (healed and fault == "always_reset")}
    with LoopbackServer(run.corpus_folder / MEDIA, faults) as server:
        write_list(run.corpus_folder, server.url("").rstrip("/"))
        yield

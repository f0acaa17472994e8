"""The demo as a command: makes the clips, serves them on loopback, runs the flow on a Prefect server of its own."""

import copy
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from dualforce_model.config import ConfigError, read_settings, shipped, validate
from dualforce_model.storage import sweep_temporaries, write_json
from flows.terminal import prefect_for
from tasks.process import folder_lock

if TYPE_CHECKING:
    from flows.demo import DemoReport, DemoRun
    from flows.rerun import RerunResult
    from tasks.synthetic.corpus import Corpus

STALE_S = 600.0
KEPT = "demo.json"  # what a demo's folder was made with
DEFAULT_CONFIG = "configs/demo/demo.yaml"


def run_demo(
    out: Path, seed: int | None, config: Path | None, overrides: Sequence[str], *, port: int | None, heal: bool
) -> "DemoReport | RerunResult":
    """The chain, or with `heal` a rerun of what failed. Goes on where an earlier call was stopped."""
    started = time.monotonic()
    settings = chosen_settings(out, seed, config, overrides, heal=heal)
    with folder_lock(out, "dualforce demo"), prefect_for(out, port) as ready:
        sweep_temporaries(out, STALE_S)
        from flows.demo import DemoRun, demo, heal_demo

        run = validate(DemoRun, demo_settings(out, settings), "the demo's settings")
        write_json(out / KEPT, settings)
        corpus = _corpus(run)
        tell(f"Prefect UI: {ready()} (while this runs; later: dualforce up --out {out})")
        with _served(run, corpus, healed=heal):
            return heal_demo(run) if heal else demo(run, corpus, time.monotonic() - started)


def chosen_settings(
    out: Path, seed: int | None, config: Path | None, overrides: Sequence[str], *, heal: bool
) -> dict[str, Any]:
    """What the command line asks for; what it leaves out is as the folder was made. Raises ConfigError for a mix-up."""
    path = out / KEPT
    kept: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if heal and kept is None:
        raise ConfigError(f"{out} holds no demo to heal; run `dualforce demo --out {out}` first")
    file = str(config) if config else kept["config"] if kept else DEFAULT_CONFIG
    wanted_seed = seed if seed is not None else kept["seed"] if kept else 0
    asked = list(overrides) if overrides or kept is None else kept["overrides"]
    read = read_settings(shipped(file), asked)
    settings = {"seed": wanted_seed, "config": file, "overrides": asked, "settings": read}
    if kept is not None and _clips(kept) != _clips(settings):
        raise ConfigError(
            f"{out} holds the demo of seed {kept['seed']} from {kept['config']}; another seed or other clips need "
            "another folder (--out)"
        )
    return settings


def _clips(settings: dict[str, Any]) -> tuple[int, object]:
    """What decides which clips a demo is about."""
    return settings["seed"], settings["settings"].get("corpus")


def demo_settings(out: Path, chosen: dict[str, Any]) -> dict[str, Any]:
    """A demo's settings with what follows from its folder and seed."""
    settings: dict[str, Any] = copy.deepcopy(chosen["settings"])
    pipeline = settings.setdefault("pipeline", {})
    pipeline["place"] = {"dataset": "demo", "home": str(out)}
    lists = (out / "corpus" / "list").resolve()
    pipeline.setdefault("acquire", {})["source"] = {"name": "hdtf", "folder": str(lists)}
    pipeline.setdefault("snapshot", {}).setdefault("tag", "demo")
    for parent, group in ((settings, "corpus"), (pipeline, "train"), (settings, "generate")):
        parent.setdefault(group, {})["seed"] = chosen["seed"]
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

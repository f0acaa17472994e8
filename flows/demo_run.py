"""The demo as a command: makes the clips, serves them on loopback, runs the flow on a Prefect server of its own."""

import copy
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from dualforce_model.config import ConfigError, read_settings, shipped, validate
from dualforce_model.storage import sweep_temporaries, write_json
from flows.terminal import prefect_for, tell

if TYPE_CHECKING:
    from flows.demo import DemoReport, DemoRun
    from flows.rerun import RerunResult
    from tasks.synthetic.corpus import Corpus

STALE_S = 600.0
KEPT = "demo.json"  # what a demo's folder was made with
DEFAULT_CONFIG = "configs/demo/demo.yaml"


def run_demo(
    out: Path, seed: int | None, config: Path | None, overrides: Sequence[str], *, port: int | None
) -> "DemoReport":
    """The chain. Goes on where an earlier call was stopped."""
    with _prepared(out, chosen_settings(out, seed, config, overrides, heal=False), port, healed=False) as (run, corpus):
        from flows.demo import demo

        return demo(run, corpus)


def heal_demo(
    out: Path, seed: int | None, config: Path | None, overrides: Sequence[str], *, port: int | None
) -> "RerunResult":
    """What failed, once more, while the server behaves."""
    with _prepared(out, chosen_settings(out, seed, config, overrides, heal=True), port, healed=True) as (run, _):
        from flows.demo import heal

        return heal(run)


@contextmanager
def _prepared(
    out: Path, settings: dict[str, Any], port: int | None, *, healed: bool
) -> "Iterator[tuple[DemoRun, Corpus]]":
    """The folder, a Prefect server, the clips and their own server, once the settings have been found good."""
    with prefect_for(out, "dualforce demo", port) as start:
        from flows.demo import DemoRun

        run = validate(DemoRun, demo_settings(out, settings), "the demo's settings")
        tell(*run.check())
        ready = start()
        sweep_temporaries(out, STALE_S)
        write_json(out / KEPT, settings)
        corpus = _corpus(run)
        tell(f"Prefect UI: {ready()} (while this runs; later: dualforce up --out {out})")
        with _served(run, corpus, healed=healed):
            yield run, corpus


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
    pipeline = _group(settings, "pipeline")
    pipeline["place"] = {"dataset": "demo", "home": str(out)}
    lists = (out / "corpus" / "list").resolve()
    _group(pipeline, "acquire")["source"] = {"name": "hdtf", "folder": str(lists)}
    _group(pipeline, "snapshot").setdefault("tag", "demo")
    for parent, group in ((settings, "corpus"), (pipeline, "train"), (settings, "generate")):
        _group(parent, group)["seed"] = chosen["seed"]
    return settings


def _group(settings: dict[str, Any], name: str) -> dict[str, Any]:
    """A group of settings, there or new."""
    group = settings.setdefault(name, {})
    if not isinstance(group, dict):
        raise ConfigError(f"the demo's settings: {name}: expected a group of settings, found {group!r}")
    return group


def _corpus(run: "DemoRun") -> "Corpus":
    """The demo's clips; made once, while the Prefect server starts."""
    from tasks.stopwatch import spending
    from tasks.synthetic.corpus import make_corpus

    every_s = 0.2 if sys.stderr.isatty() else 5.0
    with (
        spending(run.out, "clips") as spent,
        tqdm(desc=f"{'clips':<9}", unit="clip", file=sys.stderr, mininterval=every_s, ncols=100) as bar,
    ):
        spent.idle = True

        def progress(done: int, total: int, name: str) -> None:
            spent.idle = spent.idle and not name  # a name is of a clip that was made just now
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

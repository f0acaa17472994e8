"""The demo as a command: makes the clips, serves them on loopback, runs the flow on a Prefect server of its own."""

import copy
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field
from tqdm import tqdm

from dualforce_model.config import ConfigError, Frozen, read_settings, shipped, validate
from dualforce_model.storage import sweep_temporaries, write_json
from flows.terminal import prefect_for, tell

if TYPE_CHECKING:
    from flows.demo import DemoReport, DemoRun
    from flows.rerun import RerunResult
    from tasks.synthetic.corpus import Corpus

STALE_S = 600.0
KEPT = "demo.json"  # what a demo's folder was made with
PIPELINE = "pipeline.yaml"  # flows.pipeline.SAVED, which cannot be imported before Prefect's server is chosen
DEFAULT_CONFIG = "configs/demo/demo.yaml"


class Chosen(Frozen):
    """demo.json: what a demo is made with, beside its folder."""

    seed: int = Field(ge=0, lt=2**31, description="of faces, speech and training")
    config: str = Field(min_length=1, description="YAML file, as it was given")
    overrides: tuple[str, ...] = Field((), max_length=1000, description="KEY=VALUE, as they were given")
    settings: dict[str, Any] = Field(description="the file's content after the overrides")


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
def _prepared(out: Path, chosen: Chosen, port: int | None, *, healed: bool) -> "Iterator[tuple[DemoRun, Corpus]]":
    """The folder, a Prefect server, the clips and their own server, once the settings have been found good."""
    with prefect_for(out, "dualforce demo", port) as start:
        from flows.demo import DemoRun

        run = validate(DemoRun, demo_settings(out, chosen), "the demo's settings")
        tell(*run.check())
        ready = start()
        sweep_temporaries(out, STALE_S)
        write_json(out / KEPT, chosen.model_dump(mode="json"))
        corpus = _corpus(run)
        tell(f"Prefect UI: {ready()} (while this runs; later: dualforce up --out {out})")
        with _served(run, corpus, healed=healed):
            yield run, corpus


def chosen_settings(
    out: Path, seed: int | None, config: Path | None, overrides: Sequence[str], *, heal: bool
) -> Chosen:
    """What the command line asks for; what it leaves out is as the folder was made. Raises ConfigError for a mix-up."""
    kept = _read_kept(out)
    if heal and kept is None:
        raise ConfigError(f"{out} holds no demo to heal; run `dualforce demo --out {out}` first")
    file = str(config) if config else kept.config if kept else DEFAULT_CONFIG
    wanted_seed = seed if seed is not None else kept.seed if kept else 0
    asked = tuple(overrides) if overrides or kept is None else kept.overrides
    chosen = Chosen(seed=wanted_seed, config=file, overrides=asked, settings=read_settings(shipped(file), asked))
    if kept is not None and _clips(kept) != _clips(chosen):
        raise ConfigError(
            f"{out} holds the demo of seed {kept.seed} from {kept.config}; another seed or other clips need "
            "another folder (--out)"
        )
    return chosen


def _read_kept(out: Path) -> Chosen | None:
    """What the demo in a folder was made with; none in a new folder. Raises ConfigError for another run's folder."""
    path = out / KEPT
    if not path.is_file():
        if (out / PIPELINE).exists():
            raise ConfigError(
                f"{out} holds another run ({PIPELINE}, but no {KEPT}); the demo needs a folder of its own (--out)"
            )
        return None
    try:
        return validate(Chosen, json.loads(path.read_text(encoding="utf-8")), "its content")
    except ValueError as error:  # not UTF-8, not JSON, or not what a demo keeps
        raise ConfigError(
            f"{path}: damaged: {error}; put it back from a copy, or make the demo in another folder (--out)"
        ) from error


def _clips(chosen: Chosen) -> tuple[int, object]:
    """What decides which clips a demo is about."""
    return chosen.seed, chosen.settings.get("corpus")


def demo_settings(out: Path, chosen: Chosen) -> dict[str, Any]:
    """A demo's settings with what follows from its folder and seed."""
    settings = copy.deepcopy(chosen.settings)
    pipeline = _group(settings, "pipeline")
    pipeline["place"] = {"dataset": "demo", "home": str(out)}
    lists = (out / "corpus" / "list").resolve()
    _group(pipeline, "acquire")["source"] = {"name": "hdtf", "folder": str(lists)}
    _group(pipeline, "snapshot").setdefault("tag", "demo")
    for parent, group in ((settings, "corpus"), (pipeline, "train"), (settings, "generate")):
        _group(parent, group)["seed"] = chosen.seed
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

"""One feature of four changes: what the stage takes to make it anew, over what it takes where there is no other.

    python -m benchmarks.changing                      # 12 clips of 4 s, 3 rounds, workers of the local engine
    python -m benchmarks.changing --engine ray --clips 24

The four are video latents, structure, audio tokens and reference features of a small net with random weights, each made
to cost what real encoders do. Of each round all four are extracted; then another setting, or another file of weights,
makes one of them stale (not the latents: their codec has no setting), and the stage runs again. `alone` is the stage
with that feature only, in a folder that has no other. At most 1.1 times its time is allowed.
"""

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click
import torch
from pydantic import Field

from benchmarks.extraction import Setting, Spent, calibrated, make_clips, make_place, our_stage, stage_command
from benchmarks.measure import Verdict
from dualforce_model import storage
from dualforce_model.config import Frozen
from dualforce_model.encoders import EncoderChoice, Modality
from flows.server import enter_home, prefect_server
from tasks.extract import ExtractConfig
from tasks.extractors import AudioConfig, ReferenceConfig, StructureConfig
from tasks.pool import PoolConfig
from tasks.tables import table

ALLOWED = 1.1
FEATURES: tuple[Modality, ...] = ("video", "structure", "audio", "reference")
CHANGED: tuple[Modality, ...] = FEATURES[1:]
SIDE_PX = 56


class Line(Frozen):
    """One changed feature; medians over the rounds."""

    feature: str
    alone_s: float = Field(description="of the clock, where it is the only feature")
    changed_s: float = Field(description="of the clock, where it is one of four and the others are there")
    ratio: float
    cpu_ratio: float = Field(description="the same of seconds of the CPU, driver and workers")
    all_s: float = Field(description="of the clock, all four from nothing")


class Report(Frozen):
    """The outcome, and where it was had."""

    machine: str
    cores: int
    engine: str
    clips: int
    rounds: int
    date: str
    rows: tuple[Line, ...]

    def text(self) -> str:
        """For people."""
        head = ("changed", "alone s", "one of four s", "ratio", "CPU ratio", "all four s")
        cells = [
            (
                row.feature,
                f"{row.alone_s:.2f}",
                f"{row.changed_s:.2f}",
                f"{row.ratio:.2f}",
                f"{row.cpu_ratio:.2f}",
                f"{row.all_s:.2f}",
            )
            for row in self.rows
        ]
        what = f"{self.clips} clips, engine {self.engine}; {self.machine}, {self.cores} cores"
        return f"changing: {what}, {self.rounds} rounds, {self.date}\n\n{table(head, cells)}"


def verdict(rows: tuple[Line, ...]) -> Verdict:
    """Whether every change stays within what is allowed."""
    dear = [f"{row.feature} {row.ratio:.2f}" for row in rows if row.ratio > ALLOWED]
    said = f"PROBLEM: over {ALLOWED} times that feature alone: {', '.join(dear)}" if dear else f"OK: within {ALLOWED}"
    return Verdict(not dear, said)


def configs(folder: Path) -> dict[Modality, ExtractConfig]:
    """All four features as they are first (under "video"), and with one of the others changed."""
    nets = [save_pictured(folder / f"pictured{seed}", seed) for seed in range(2)]

    def config(num_mouth: int = 21, num_mels: int = 38, net: int = 0) -> ExtractConfig:
        return ExtractConfig(
            modalities=FEATURES,
            structure=StructureConfig(encoder=EncoderChoice(name="face_dct", config={"num_mouth": num_mouth})),
            audio=AudioConfig(encoder=EncoderChoice(name="log_mel", config={"num_mels": num_mels})),
            reference=ReferenceConfig(encoder=EncoderChoice(name="dinov2", config={"weights": str(nets[net])})),
        )

    return {
        "video": config(),
        "structure": config(num_mouth=20),
        "audio": config(num_mels=37),
        "reference": config(net=1),
    }


def save_pictured(folder: Path, seed: int) -> Path:
    """A small DINOv2 of random weights, saved as published ones are."""
    from transformers import Dinov2Config, Dinov2Model

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sizes = {"hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "patch_size": 14}
        Dinov2Model(Dinov2Config(**sizes, image_size=SIDE_PX)).save_pretrained(folder)
    preparation = {
        "size": {"shortest_edge": SIDE_PX},
        "crop_size": {"height": SIDE_PX, "width": SIDE_PX},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.25, 0.25, 0.25],
        "resample": 3,
    }
    storage.write_json(folder / "preprocessor_config.json", preparation)
    return folder


def measure(folder: Path, setting: Setting) -> Report:
    """Every feature in turn, as often as there are rounds."""
    torch.set_num_threads(1)
    digests, frames = make_clips(folder, setting.clips, setting.seconds)
    repeats = dict.fromkeys(FEATURES, calibrated(folder, frames, setting.encode_s)["video"])
    all_configs, pool = configs(folder), PoolConfig(engine=setting.engine, workers=setting.workers)
    taken: dict[Modality, list[tuple[Spent, ...]]] = {name: [] for name in CHANGED}
    with prefect_server(folder / "prefect") as server:
        server.ready()
        enter_home(server.environment["PREFECT_HOME"])

        def stage(home: Path, *wanted: ExtractConfig) -> list[Spent]:
            place = make_place(home, folder, digests, frames)
            first, *later = (partial(our_stage, place, pool, config, repeats, server) for config in wanted)
            return [first(), *(again(lacking=setting.clips) for again in later)]

        def one_of_four(home: Path, name: Modality) -> list[Spent]:
            return stage(home / "four", all_configs["video"], all_configs[name])

        def alone(home: Path, name: Modality) -> list[Spent]:
            return stage(home / "alone", all_configs[name].model_copy(update={"modalities": (name,)}))

        for number in range(setting.rounds):
            for name in CHANGED:
                home = folder / f"{number}-{name}"
                ways = (one_of_four, alone) if number % 2 else (alone, one_of_four)
                found = {way.__name__: way(home, name) for way in ways}
                taken[name].append((*found["alone"], *found["one_of_four"]))
                click.echo(f"{name}: " + ", ".join(f"{spent.wall_s:.2f} s" for spent in taken[name][-1]), err=True)
    return Report(
        machine=f"{platform.machine()} CPU",
        cores=os.cpu_count() or 1,
        engine=setting.engine,
        clips=setting.clips,
        rounds=setting.rounds,
        date=datetime.now(UTC).date().isoformat(),
        rows=tuple(line(name, found) for name, found in taken.items()),
    )


def line(feature: str, found: Sequence[tuple[Spent, ...]]) -> Line:
    """Medians over the rounds of (alone, all four, one of four)."""

    def median(of: Callable[[Spent, Spent, Spent], float]) -> float:
        return statistics.median(of(*each) for each in found)

    def cpu(spent: Spent) -> float:
        return spent.encode_s + spent.other_s

    return Line(
        feature=feature,
        alone_s=median(lambda alone, whole, changed: alone.wall_s),
        changed_s=median(lambda alone, whole, changed: changed.wall_s),
        ratio=median(lambda alone, whole, changed: changed.wall_s / alone.wall_s),
        cpu_ratio=median(lambda alone, whole, changed: cpu(changed) / cpu(alone)),
        all_s=median(lambda alone, whole, changed: whole.wall_s),
    )


main = stage_command(measure, verdict, __doc__ or "", workers=1, encode_s=0.5)

if __name__ == "__main__":
    main()

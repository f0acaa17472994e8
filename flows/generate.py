"""generate: a checkpoint, pictures and sounds become videos."""

from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from dualforce_model.config import Frozen
from dualforce_model.pipeline import load_pipeline_record
from flows.preflight import FlowRun, check_files, checked
from tasks.artifacts import publish
from tasks.generation import GenerateConfig, Generated, GenerateItem, crop_for
from tasks.generation import generate as generate_videos
from tasks.place import Place
from tasks.progress import Progress
from tasks.stopwatch import spending


class GenerateRun(FlowRun):
    """A complete generation run."""

    place: Place = Place()
    checkpoint: str = Field(min_length=1, description="folder of a checkpoint")
    folder: str = Field(min_length=1, description="where the videos go")
    items: tuple[GenerateItem, ...] = Field(min_length=1, max_length=10_000, description="videos to make")
    generate: GenerateConfig = GenerateConfig()

    def check(self) -> tuple[str, ...]:
        crop_for(load_pipeline_record(Path(self.checkpoint)), self.generate)
        for number, item in enumerate(self.items):
            check_files({f"items.{number}.reference": item.reference, f"items.{number}.sound": item.sound})
        return ()


class GenerateResult(Frozen):
    """The videos."""

    generated: Generated
    folder: str
    made: int = Field(ge=0, description="videos that this call made; the others were there already")
    failed_clips: int = 0

    def text(self) -> str:
        """For people."""
        return f"generate: {self.made} of {len(self.generated.items)} videos made, in {self.folder}"


@task(name="sample", cache_policy=NO_CACHE)
def sample(config: GenerateRun) -> tuple[Generated, int]:
    """All videos that are missing."""
    with Progress("generate", len(config.items), "video") as progress:
        return generate_videos(
            Path(config.checkpoint),
            config.items,
            Path(config.folder),
            config.generate,
            lambda names: progress.ended(names, "done"),
        )


@flow(name="generate", flow_run_name="generate {config.folder}")
def generate(config: GenerateRun) -> GenerateResult:
    """Sample every listed video that is not there yet."""
    checked(config)
    with spending(config.place.folder, "generate") as spent:
        generated, made = sample(config)
        spent.idle = not made
    result = GenerateResult(generated=generated, folder=config.folder, made=made)
    names = "\n".join(f"- `{item.path}`, {item.num_frames} frames" for item in result.generated.items)
    publish("generated", f"In `{config.folder}`:\n\n{names}", "generated videos")
    return result

"""train: a snapshot becomes a checkpoint, in a process of its own under supervision."""

from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from dualforce_model.config import Frozen
from dualforce_model.schema import load_snapshot
from dualforce_model.storage import Storage
from dualforce_model.train_config import TrainSettings
from flows.preflight import FlowRun, check_encoders, check_launch, checked
from tasks.artifacts import publish
from tasks.place import Place
from tasks.progress import LineProgress
from tasks.stopwatch import spending
from tasks.training import LaunchConfig, finished_checkpoint, launch_training, run_folder


class TrainRun(FlowRun):
    """A complete training run."""

    place: Place = Place()
    snapshot: str = Field("latest", min_length=1, description="tag or id of the snapshot to learn from")
    train: TrainSettings = TrainSettings()
    launch: LaunchConfig = LaunchConfig()

    def check(self) -> tuple[str, ...]:
        check_encoders(self.train.encoders)
        check_launch(self.launch)
        load_snapshot(Storage(self.place.store_url).require(), self.snapshot)
        return ()


class TrainResult(Frozen):
    """The checkpoint and where it came from."""

    snapshot_id: str
    folder: str = Field(description="the run's folder: log, curves, checkpoints")
    checkpoint: str = Field(description="folder of the final checkpoint")
    trained: bool = Field(description="whether this call trained; otherwise the checkpoint was there already")
    failed_clips: int = 0

    def text(self) -> str:
        """For people."""
        verb = "trained" if self.trained else "nothing to do, trained already"
        return f"train: {verb}, checkpoint {self.checkpoint} of snapshot {self.snapshot_id}"


@task(name="accelerate launch", cache_policy=NO_CACHE)
def launch(folder: Path, run: TrainRun, snapshot_id: str) -> Path:
    """The training process; its lines come through as progress."""
    resolved = run.train.resolve(run.place.store_url, snapshot_id)
    return launch_training(folder, resolved, run.launch, LineProgress("training").line)


@flow(name="train", flow_run_name="train on {config.snapshot}")
def train(config: TrainRun) -> TrainResult:
    """Train until the configured step, or go on from the newest valid checkpoint of the same request."""
    checked(config)
    snapshot_id = load_snapshot(Storage(config.place.store_url), config.snapshot).id
    folder = run_folder(config.place.folder / "training", snapshot_id, config.train)
    with spending(config.place.folder, "train") as spent:
        existing = finished_checkpoint(folder)
        checkpoint = existing or launch(folder, config, snapshot_id)
        spent.idle = existing is not None
    result = TrainResult(
        snapshot_id=snapshot_id, folder=str(folder), checkpoint=str(checkpoint), trained=existing is None
    )
    publish("training", result.text(), "the checkpoint")
    return result

"""Everything that decides what a training run computes; the run's folder is where its configuration file lies."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from dualforce_model.config import Frozen
from dualforce_model.diffusion.prediction import Prediction, Reading, Spread
from dualforce_model.diffusion.regimes import find_regime
from dualforce_model.diffusion.sampler import SamplerConfig
from dualforce_model.diffusion.schedule import NoiseSchedule
from dualforce_model.encoders import EncoderChoice
from dualforce_model.execution import Execution
from dualforce_model.losses import LossWeights
from dualforce_model.model import PRESETS, ModelConfig
from dualforce_model.optimisation import OptimizerConfig
from dualforce_model.schema import TensorStatistics
from dualforce_model.weights import WarmStart

RECORD_FORMAT: Literal[2] = 2  # of PipelineRecord; older ones do not say which crops the model was trained on


class Encoders(Frozen):
    """What turned pixels and sound into the snapshot's features; kept in checkpoints for the pipeline."""

    video: EncoderChoice = EncoderChoice(name="dct_video")
    structure: EncoderChoice = EncoderChoice(name="face_dct")
    audio: EncoderChoice = EncoderChoice(name="log_mel")
    reference: EncoderChoice | None = Field(
        default=None,
        description="of reference features, where the model takes them; null: whoever generates hands features over",
    )
    text: EncoderChoice | None = Field(
        default=None, description="of words, where the model takes text; null: whoever generates hands tokens over"
    )


class Diffusion(Frozen):
    """The diffusion process that trainer and sampler share."""

    schedule: NoiseSchedule = NoiseSchedule()
    prediction: Prediction = Field(default="residual", description="meaning of the network's output; velocity is Wan's")


class TrainSettings(Frozen):
    """A training run on any snapshot. The defaults are the demo's: two CPU cores, four minutes."""

    encoders: Encoders = Encoders()
    model: ModelConfig = Field(default=PRESETS["tiny"], description="widths of the data are taken from the snapshot")
    start_from: WarmStart | None = Field(
        default=None, description="the video tower's first weights; null: from scratch"
    )
    diffusion: Diffusion = Diffusion()
    regime: str = Field(default="clean_prefix", description="how noise levels are drawn: a name of REGIMES")
    losses: LossWeights = LossWeights()
    optimizer: OptimizerConfig = OptimizerConfig()
    sampler: SamplerConfig = Field(default=SamplerConfig(), description="kept as the pipeline's defaults")
    seed: int = Field(default=0, ge=0, lt=2**31, description="of weights, order, noise and dropout")
    steps: int = Field(default=800, ge=1, le=10_000_000, description="optimizer steps of the whole run")
    batch_size: int = Field(default=8, ge=1, le=65_536, description="windows per optimizer step over all processes")
    window_steps: int = Field(
        default=9, ge=2, le=1024, description="steps of a training window, the reference included"
    )
    audio_dropout: float = Field(default=0.0, ge=0, lt=1, description="share of silent windows; guidance needs some")
    feature_dropout: float = Field(
        default=0.1, ge=0, lt=1, description="share of windows without their reference features; 0: never without"
    )
    text_dropout: float = Field(
        default=0.1, ge=0, lt=1, description="share of windows that are told nothing; 0: never without their text"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto: bf16 arithmetic on CUDA, fp32 on the CPU; masters are fp32 either way"
    )
    execution: Execution = Execution()
    save_every: int = Field(default=200, ge=1, description="steps between checkpoints; the last step always has one")
    keep_checkpoints: int = Field(default=2, ge=1, le=1000, description="newest checkpoints that stay")
    log_every: int = Field(default=10, ge=1, description="steps between lines of the log")
    validate_every: int = Field(default=200, ge=1, description="steps between validation losses")
    validation_windows: int = Field(default=16, ge=0, le=4096, description="windows of a validation loss; 0: none")
    in_memory: bool = Field(default=True, description="keep the features in memory; turn off for large snapshots")
    loader_workers: int = Field(default=0, ge=0, le=64, description="processes that read ahead; 0 reads in the trainer")

    @field_validator("regime")
    @classmethod
    def _known(cls, name: str) -> str:
        find_regime(name)
        return name

    @model_validator(mode="after")
    def _starts_as_it_goes_on(self) -> Self:
        if self.start_from is not None and self.diffusion.prediction != "velocity":
            raise ValueError(
                f"start_from with diffusion.prediction {self.diffusion.prediction!r}: Wan's weights say velocities, "
                "so set it to velocity"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """What the run computes; not where its store lies, nor how the work is carried out."""
        found = self.model_dump(mode="json", exclude={"store_url", "execution"})
        if not self.model.video.feature_dim:  # says nothing then, so runs from before there was a choice keep theirs
            del found["feature_dropout"], found["encoders"]["reference"]
        if self.model.structure is not None and not self.model.structure.canonical_dim:  # the same
            del found["model"]["structure"]["canonical_dim"]
        if found["text_dropout"] == TrainSettings.model_fields["text_dropout"].default:  # the same
            del found["text_dropout"]
        if self.encoders.text is None:
            del found["encoders"]["text"]
        return found

    def resolve(self, store_url: str, snapshot_id: str) -> "TrainConfig":
        """These settings on one snapshot."""
        return TrainConfig(store_url=store_url, snapshot_id=snapshot_id, **dict(self))


class TrainConfig(TrainSettings):
    """One training run on one snapshot: what `python -m dualforce_model.train --config` reads."""

    store_url: str = Field(min_length=1, description="fsspec URL of the feature store")
    snapshot_id: str = Field(min_length=1, max_length=80, description="id of the snapshot to learn from")


class PictureSize(Frozen):
    """Side of the square crops that a model was trained on; at another size it has never seen a whole face."""

    crop_px: int = Field(ge=1, description="pixels")
    latent_px: int = Field(ge=1, description="latent pixels")


class PipelineRecord(Frozen):
    """What a checkpoint says about its use: everything a pipeline needs besides the weights."""

    format: Literal[2] = Field(description="version of this record")
    encoders: Encoders
    size: PictureSize
    diffusion: Diffusion
    sampler: SamplerConfig
    spread: Spread = Field(description="unit of residuals, measured on training windows")
    statistics: dict[str, TensorStatistics] = Field(description="of the snapshot: '<modality>.<array>'")
    snapshot_id: str = Field(description="what the weights were trained on")
    text: bool = Field(default=False, description="whether it was told something in words")

    def reading(self) -> Reading:
        """How the network's outputs are to be read."""
        return Reading.of(self.diffusion.prediction, self.spread)

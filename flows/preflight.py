"""What is looked at before a run makes anything: files, names and versions that its configuration speaks of.

A model says what a configuration looks like; `check` says whether what it names is there. Nothing here writes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import get_run_logger
from prefect.context import FlowRunContext

from dualforce_model.config import ConfigError, Frozen, shipped
from dualforce_model.encoders import EncoderChoice, make_encoder
from tasks.curation import CurateConfig, unmeasured
from tasks.detectors import make_detector
from tasks.extract import ExtractConfig, make_extractors
from tasks.extractors.text import TextNames
from tasks.measures import make_measures
from tasks.place import Place
from tasks.policy import Policy, load_policy, undecidable

if TYPE_CHECKING:  # seven seconds of imports, which only flows that train need
    from dualforce_model.train_config import Encoders, TrainSettings
    from tasks.training import LaunchConfig


class FlowRun(Frozen):
    """Base of every flow's configuration."""

    def check(self) -> tuple[str, ...]:
        """What the person who starts the run should know. Raises InputError for what is named and is not there."""
        return ()


def checked(config: FlowRun) -> None:
    """Check what a flow was given before it makes anything: what the UI starts, no command has looked at.

    Notes go to the log of the run, where there is one. Raises InputError as `check` does.
    """
    notes = config.check()
    if FlowRunContext.get() is not None:
        for note in notes:
            get_run_logger().warning(note)


def check_source(source: Frozen) -> None:
    """The list or folder that clips come from."""
    for name in type(source).model_fields:
        value, wanted = getattr(source, name), "folder" if name == "folder" else "file"
        if isinstance(value, Path) and not (value.is_dir() if wanted == "folder" else value.is_file()):
            found = f"not a {wanted}" if value.exists() else f"no such {wanted}"
            raise ConfigError(f"acquire.source.{name}: {value}: {found}")


def check_begun(place: Place, what: str, before: str) -> None:
    """That there is a ledger for a stage that goes on from an earlier one."""
    if place.ledger is None and not (place.folder / "ledger.db").is_file():
        raise ConfigError(f"{place.folder}: nothing to {what} there, it has no ledger.db; run {before} first")


def check_curate(config: CurateConfig) -> None:
    """The detector, where one is used, and the measures."""
    measures = make_measures(config.measures)
    detector = make_detector(config.detector) if config.mode == "face" else None
    for measure in measures:
        if measure.needs_face and detector is None:
            raise ConfigError(
                f"curate.measures.{measure.name}: it needs a face, and curate.mode general looks for none"
            )
        if measure.needs_landmarks and detector is not None and not detector.landmarks:
            raise ConfigError(
                f"curate.measures.{measure.name}: it needs landmarks, and {detector.name} gives none; choose another "
                "curate.detector, or leave the measure out"
            )


def check_policy(path: str, curate: CurateConfig | None = None) -> tuple[str, ...]:
    """The policy, and whether what curate measures is enough for it; notes where it asks for less than curate does.

    `curate` is None for a run that takes crops as they are, however they were made.
    """
    policy = load_policy(path)
    undecided = undecidable(policy, unmeasured(curate))
    if undecided:
        name, needs = next(iter(undecided.items()))
        general = curate is not None and curate.mode == "general"
        other = "choose curate.mode: face, or configs/policy/pretrain.yaml" if general else "leave the rule out"
        raise ConfigError(
            f"{path}: {name}: when_not_measured: drop would drop every clip, because curate cannot measure {name} here "
            f"(it takes {needs}); write when_not_measured: pass, or {other}"
        )
    return () if curate is None else _kinder_than_curate(policy, curate)


def _kinder_than_curate(policy: Policy, curate: CurateConfig) -> tuple[str, ...]:
    if curate.mode == "general" or policy.drop.people is not None or policy.drop.face_px is not None:
        return ()
    return (
        f"policy {policy.name!r} asks for no face, but curate.mode: face quarantines clips without one as no_face all "
        "the same; curate.mode: general takes them",
    )


def faceless_features(curate: CurateConfig, extract: ExtractConfig) -> tuple[str, ...]:
    """A note where features are asked of crops that they may not be in."""
    asked = [modality for modality in extract.modalities if modality != "video"]
    if curate.mode == "face" or not asked:
        return ()
    return (
        f"curate.mode: general looks for no face and asks for no sound, but extract.modalities has {', '.join(asked)}: "
        "structure describes a face, and clips without sound get no audio; pretraining takes video alone",
    )


def check_extract(config: ExtractConfig) -> None:
    """The extractors' encoders, and that of captions."""
    make_extractors(config)
    if config.text is not None:
        TextNames(config.text)


def check_encoders(encoders: "Encoders") -> None:
    """The encoders that a checkpoint is to name."""
    for choice in (encoders.video, encoders.structure, encoders.audio, encoders.reference, encoders.text):
        if choice is not None:
            make_encoder(choice.name, choice.config)


def check_chain(extract: ExtractConfig, train: "TrainSettings") -> None:
    """That extract makes what training wants and its checkpoint will name: the trainer would refuse, too late."""
    encoders, extractors = train.encoders, make_extractors(extract)
    if train.model.video.feature_dim and "reference" not in extractors:
        raise ConfigError(
            f"train.model.video.feature_dim {train.model.video.feature_dim}: no extractor of this run makes reference "
            "features; set it to 0, or train alone on a snapshot that has them"
        )
    for modality, extractor in extractors.items():
        named: EncoderChoice | None = getattr(encoders, modality, None)  # FLAME is for training alone
        if named is None:
            continue
        if make_encoder(named.name, named.config).fingerprint() != extractor.encoder_fingerprint:
            raise ConfigError(
                f"train.encoders.{modality}: {named.name} {named.config} is not the encoder of extract.{modality}; "
                "name the same in both"
            )
    if extract.text is not None and encoders.text is not None:
        made_by, words = TextNames(extract.text).fingerprint, encoders.text
        if make_encoder(words.name, words.config).fingerprint() != made_by:
            raise ConfigError(
                f"train.encoders.text: {words.name} {words.config} is not the encoder of extract.text; name the same "
                "in both"
            )


def check_launch(config: "LaunchConfig") -> None:
    """accelerate's own configuration."""
    check_files({"launch.accelerate": str(shipped(config.accelerate))})


def check_files(files: Mapping[str, str]) -> None:
    """Files by the setting that names them."""
    for setting, path in files.items():
        if not Path(path).is_file():
            raise ConfigError(f"{setting}: {path}: no such file")

"""What is looked at before a run makes anything: files, names and versions that its configuration speaks of.

A model says what a configuration looks like; `check` says whether what it names is there. Nothing here writes.
"""

from collections.abc import Mapping
from pathlib import Path

from dualforce_model.config import ConfigError, Frozen, shipped
from dualforce_model.encoders import make_encoder
from dualforce_model.train_config import Encoders
from tasks.curation import UNMEASURED, CurateConfig
from tasks.detectors import make_detector
from tasks.extract import ExtractConfig, make_extractors
from tasks.place import Place
from tasks.policy import Policy, load_policy, undecidable
from tasks.training import LaunchConfig


class FlowRun(Frozen):
    """Base of every flow's configuration."""

    def check(self) -> tuple[str, ...]:
        """What the person who starts the run should know. Raises InputError for what is named and is not there."""
        return ()


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
    """The detector."""
    make_detector(config.detector)


def check_policy(path: str) -> tuple[str, ...]:
    """The policy, and whether what curate measures is enough for it; notes where it asks for less than curate does."""
    policy = load_policy(path)
    undecided = undecidable(policy, UNMEASURED)
    if undecided:
        name, needs = next(iter(undecided.items()))
        raise ConfigError(
            f"{path}: {name}: when_not_measured: drop would drop every clip, because curate cannot measure {name} here "
            f"(it takes {needs}); write when_not_measured: pass, or leave the rule out"
        )
    return _kinder_than_curate(policy)


def _kinder_than_curate(policy: Policy) -> tuple[str, ...]:
    if policy.drop.people is not None or policy.drop.face_px is not None:
        return ()
    return (
        f"policy {policy.name!r} asks for no face, but curate crops to faces: clips without one are quarantined as "
        "no_face all the same (mode: general is not built yet)",
    )


def check_extract(config: ExtractConfig) -> None:
    """The extractors' encoders."""
    make_extractors(config)


def check_encoders(encoders: Encoders) -> None:
    """The encoders that a checkpoint is to name."""
    for choice in (encoders.video, encoders.structure, encoders.audio):
        make_encoder(choice.name, choice.config)


def check_chain(extract: ExtractConfig, encoders: Encoders) -> None:
    """That what extract applies is what the checkpoint will name: the trainer would refuse, after all the work."""
    for modality, extractor in make_extractors(extract).items():
        named = getattr(encoders, modality)
        if make_encoder(named.name, named.config).fingerprint() != extractor.encoder_fingerprint:
            raise ConfigError(
                f"train.encoders.{modality}: {named.name} {named.config} is not the encoder of extract.{modality}; "
                "name the same in both"
            )


def check_launch(config: LaunchConfig) -> None:
    """accelerate's own configuration."""
    check_files({"launch.accelerate": str(shipped(config.accelerate))})


def check_files(files: Mapping[str, str]) -> None:
    """Files by the setting that names them."""
    for setting, path in files.items():
        if not Path(path).is_file():
            raise ConfigError(f"{setting}: {path}: no such file")

"""What a snapshot means for a model: widths of inputs, size of pictures, the encoders that it has to be used with."""

import logging
from collections.abc import Sequence

from dualforce_model.config import ConfigError
from dualforce_model.encoders import EncoderChoice, make_encoder
from dualforce_model.model import ModelConfig
from dualforce_model.schema import SchemaError, Snapshot
from dualforce_model.train_config import Encoders, PictureSize, TrainSettings

LOGGER = logging.getLogger(__name__)


def wanted_modalities(settings: TrainSettings, snapshot: Snapshot) -> tuple[str, ...]:
    """What a run reads of a snapshot; raises ConfigError where the model takes reference features and it has none.

    Video, structure and sound that are missing are the data set's to refuse, by name too.
    """
    model = settings.model
    wanted = ["video"]
    wanted += ["structure"] if model.structure is not None else []
    wanted += ["audio"] if model.audio is not None else []
    wanted += ["flame"] if settings.losses.flame and model.structure and "flame" in snapshot.modalities else []
    if model.video.feature_dim:
        if "reference" not in snapshot.modalities:
            raise ConfigError(
                f"model.video.feature_dim {model.video.feature_dim}: snapshot {snapshot.id} has no modality "
                f"'reference' (it has {', '.join(sorted(snapshot.modalities))}), so no reference features; build one "
                "with them, or set it to 0"
            )
        wanted.append("reference")
    if text_width(model):
        if snapshot.text is None:
            LOGGER.warning("the model takes text, of which snapshot %s has none: it is told nothing", snapshot.id)
        else:
            wanted.append("text")
    return tuple(wanted)


def text_width(model: ModelConfig) -> int:
    """Width of the text that a model takes; 0: none of its towers takes any."""
    return max(model.video.text_dim, model.structure.text_dim if model.structure is not None else 0)


def fitted(model: ModelConfig, snapshot: Snapshot, modalities: Sequence[str]) -> ModelConfig:
    """The model with the widths of the snapshot's features; reference features only where the model takes some."""
    shapes = {name: info.tensors for name, info in snapshot.modalities.items()}
    entries = shapes["structure"]["motion"][0] if "structure" in modalities else 1
    features = shapes["audio"]["tokens"][0] if "audio" in modalities else 1
    found = model.fitted(shapes["video"]["latents"][0], entries, features)
    if model.structure is not None and model.structure.canonical_dim:
        found = _with_canonical(found, snapshot)
    if "text" in modalities and snapshot.text is not None:
        found = _with_text(found, snapshot.text.tensors["tokens"][-1])
    if not model.video.feature_dim:
        return found
    width = shapes["reference"]["features"][-1]
    return found.model_copy(update={"video": found.video.model_copy(update={"feature_dim": width})})


def _with_text(model: ModelConfig, width: int) -> ModelConfig:
    """With text of that width, for towers that take some."""
    towers = {"video": model.video, "structure": model.structure}
    takers = {name: each for name, each in towers.items() if each is not None and each.text_dim}
    wide = {name: each.model_copy(update={"text_dim": width}) for name, each in takers.items()}
    return model.model_copy(update=wide)


def _with_canonical(model: ModelConfig, snapshot: Snapshot) -> ModelConfig:
    """With as many numbers of key points at rest as the snapshot's. Raises ConfigError where it has none."""
    assert model.structure is not None, "asked only of a model with structure"
    held = snapshot.modalities["structure"].tensors
    if "canonical" not in held:
        raise ConfigError(
            f"model.structure.canonical_dim {model.structure.canonical_dim}: the structure of snapshot {snapshot.id} "
            f"has no key points at rest (it has {', '.join(sorted(held))}); extract it with an encoder that tells them "
            "(liveportrait), or set it to 0"
        )
    return model.model_copy(
        update={"structure": model.structure.model_copy(update={"canonical_dim": held["canonical"][0]})}
    )


def picture_size(snapshot: Snapshot, encoders: Encoders) -> PictureSize:
    """Pixels and latent pixels of the snapshot's crops. Raises SchemaError unless they are square, as curate's are."""
    _, rows, columns = snapshot.modalities["video"].tensors["latents"]
    if rows != columns:
        raise SchemaError(f"snapshot {snapshot.id}: latents of {rows}x{columns}; pipelines work with square crops only")
    codec = make_encoder(encoders.video.name, encoders.video.config)
    return PictureSize(crop_px=rows * codec.spatial_stride, latent_px=rows)


def check_encoders(encoders: Encoders, snapshot: Snapshot, modalities: Sequence[str]) -> None:
    """Raise ConfigError unless the encoders named are those that made the snapshot's features.

    Training would succeed and every video generated with the checkpoint would be noise. Modalities that only training
    reads (flame) have no encoder in a checkpoint.
    """
    for modality in [name for name in modalities if name in Encoders.model_fields]:
        choice: EncoderChoice | None = getattr(encoders, modality)
        if choice is None:
            LOGGER.warning("encoders.%s names none: pipelines will have to be given what it makes", modality)
            continue
        info = snapshot.text if modality == "text" else snapshot.modalities[modality]
        made_by = info.encoder if info is not None else ""
        named = make_encoder(choice.name, choice.config).fingerprint()
        if not made_by:
            LOGGER.warning("snapshot %s does not say which encoder made its %s", snapshot.id, modality)
        elif made_by != named:
            raise ConfigError(
                f"encoders.{modality}: {choice.name} {choice.config} (fingerprint {named}) did not make the {modality} "
                f"of snapshot {snapshot.id} (fingerprint {made_by}); name the encoder of the extract configuration"
            )

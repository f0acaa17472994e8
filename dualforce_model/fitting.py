"""What a snapshot means for a model: widths of inputs, size of pictures, the encoders that it has to be used with."""

import logging
from collections.abc import Sequence

from dualforce_model.config import ConfigError
from dualforce_model.encoders import EncoderChoice, make_encoder
from dualforce_model.model import ModelConfig
from dualforce_model.schema import SchemaError, Snapshot
from dualforce_model.train_config import Encoders, PictureSize

LOGGER = logging.getLogger(__name__)


def fitted(model: ModelConfig, snapshot: Snapshot, modalities: Sequence[str]) -> ModelConfig:
    """The model with the widths of the snapshot's features."""
    shapes = {name: info.tensors for name, info in snapshot.modalities.items()}
    entries = shapes["structure"]["motion"][0] if "structure" in modalities else 1
    features = shapes["audio"]["tokens"][0] if "audio" in modalities else 1
    return model.fitted(shapes["video"]["latents"][0], entries, features)


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
        choice: EncoderChoice = getattr(encoders, modality)
        made_by, named = snapshot.modalities[modality].encoder, make_encoder(choice.name, choice.config).fingerprint()
        if not made_by:
            LOGGER.warning("snapshot %s does not say which encoder made its %s", snapshot.id, modality)
        elif made_by != named:
            raise ConfigError(
                f"encoders.{modality}: {choice.name} {choice.config} (fingerprint {named}) did not make the {modality} "
                f"of snapshot {snapshot.id} (fingerprint {made_by}); name the encoder of the extract configuration"
            )

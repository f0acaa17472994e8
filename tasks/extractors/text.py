"""What is said of a clip in words, and the name of its text features. They belong to captions, so clips share them."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from dualforce_model.captions import clean_caption
from dualforce_model.config import ConfigError, Frozen
from dualforce_model.encoders import EncoderChoice, make_encoder
from dualforce_model.text_features import text_name
from tasks.records import Clip


def _some_text(text: str) -> str:
    if not (clean := clean_caption(text)):
        raise ValueError("expected some text, found none but space and control characters")
    return clean


class TextConfig(Frozen):
    """Settings of the text features."""

    encoder: EncoderChoice = Field(EncoderChoice(name="umt5"), description="which text encoder of ENCODERS")
    prompt: Annotated[str, AfterValidator(_some_text)] = Field(
        "A person is talking to the camera.", description="said of every clip that its list has no caption for"
    )
    batch_size: int = Field(32, ge=1, le=256, description="captions encoded together; halved where memory is short")
    workers: int | None = Field(
        1,
        ge=1,
        le=4096,
        description="workers of the pool that encode captions; each holds the encoder (umt5-xxl: 11 GB). none: all",
    )


class TextNames:
    """Names of clips' text features under a configuration; builds the encoder, which finds its weights."""

    def __init__(self, config: TextConfig) -> None:
        self.config = config
        self.encoder: Any = make_encoder(config.encoder.name, config.encoder.config)
        if self.encoder.modality != "text":
            raise ConfigError(f"extract.text.encoder: {config.encoder.name} encodes {self.encoder.modality}, not text")
        self.fingerprint = str(self.encoder.fingerprint())

    def caption(self, clip: Clip) -> str:
        """The list's caption, else the configured prompt."""
        return clip.caption or self.config.prompt

    @property
    def prompt_name(self) -> str:
        """Name of what the encoder makes of the prompt."""
        return text_name(self.fingerprint, self.config.prompt)

    def __call__(self, clip: Clip) -> str:
        """Name of what the encoder makes of the clip's caption."""
        return text_name(self.fingerprint, self.caption(clip))

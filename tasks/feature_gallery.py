"""What extract made, for people: pictures of some clips' features, beside the run and in the Prefect UI."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from dualforce_model import clock, flame, media, storage
from dualforce_model.encoders import Landmarking, Placing, make_encoder
from dualforce_model.encoders.base import NoFaceError
from dualforce_model.schema import Feature, FeatureRef
from dualforce_model.shards import load_feature
from dualforce_model.storage import Storage
from tasks.extract import ExtractConfig
from tasks.feature_sheet import ClipMedia, Places, feature_sheet, moments
from tasks.ledger import Ledger
from tasks.place import Place
from tasks.preview import shrunk
from tasks.records import Stage

SHOWN_CLIPS = 6
FOLDER = "features"  # below home
WORDS_CHARS = 300
PAGE_WIDTH_PX = 1000  # of a picture among others


def features_markdown(place: Place, config: ExtractConfig, run_id: str) -> str:
    """Pictures of some clips that a run made features of, written below home too. Says why, where one has none.

    The run is over by then: whatever is not here for a picture (a crop, weights, a package) is said, not raised.
    """
    with Ledger(place.ledger_url) as ledger:
        made = _made_by(ledger, place.dataset, run_id)
        rows = ledger.rows_of(place.dataset, Stage.CURATE, made)
    crops = {row.clip_id: place.media_root / str(row.value["path"]) for row in rows if row.state == "done"}
    parts = [f"{len(made)} of the clips that this run encoded. The pictures lie in `{place.folder / FOLDER}`."]
    structure = None
    if "structure" in config.modalities and any("structure" in refs for refs in made.values()):
        try:
            structure = _structure(config)
        except Exception as error:  # a page for people, made when the run is over: whatever goes wrong is said on it
            parts.append(f"Landmarks are not shown: {_words(error)}")
    store = Storage(place.store_url)
    for clip_id, refs in made.items():
        try:
            if clip_id not in crops:
                raise FileNotFoundError("it has no crop any more")
            features: dict[str, Feature] = {name: load_feature(store, ref) for name, ref in sorted(refs.items())}
            picture = _picture(clip_id, _clip_media(crops[clip_id]), features, structure)
            path = place.folder / FOLDER / f"{clip_id}.jpg"
            storage.write_bytes(path, picture)
            small = base64.b64encode(shrunk(path, PAGE_WIDTH_PX)).decode("ascii")
            parts.append(f"![{clip_id}](data:image/jpeg;base64,{small})")
        except Exception as error:
            parts.append(f"`{clip_id}` cannot be shown: {_words(error)}")
    return "\n\n".join(parts)


def _structure(config: ExtractConfig) -> Any:
    """The structure encoder, ready to find landmarks where it can. It may be missing here, and at hand on workers."""
    structure = make_encoder(config.structure.encoder.name, config.structure.encoder.config)
    if isinstance(structure, Landmarking):
        structure.load()
    return structure


def _words(error: BaseException) -> str:
    """What an error says, in one line that no markdown reads as its own."""
    said = " ".join(str(error).replace("`", "'").split())[:WORDS_CHARS]
    return f"`{said or type(error).__name__}`"


def _picture(clip_id: str, clip: ClipMedia, features: Mapping[str, Feature], structure: Any) -> bytes:
    return feature_sheet(clip_id, clip, features, entry_names(structure), _places(structure, clip, features))


def _places(structure: Any, clip: ClipMedia, features: Mapping[str, Feature]) -> Places:
    """Landmarks of each frame that is shown, where the structure encoder knows any."""
    shown = moments(len(clip.frames))
    if isinstance(structure, Placing) and "structure" in features:
        return list(structure.places(features["structure"]["motion"])[shown])
    if not isinstance(structure, Landmarking) or "structure" not in features:
        return ()
    return [_landmarks(structure, clip.frames[moment]) for moment in shown]


def _landmarks(structure: Landmarking, frame: UInt8[np.ndarray, "H W 3"]) -> Float32[np.ndarray, "k 2"] | None:
    """Of one frame alone: frames so far apart are no track."""
    try:
        return structure.landmarks(frame[None])[0]
    except NoFaceError:
        return None


def entry_names(structure: Any) -> Mapping[str, tuple[str, ...]]:
    """What the entries of structure and FLAME are called, where that is known."""
    names = {"flame": tuple(f"{group} {entry}" for group, place in flame.LAYOUT.items() for entry in _entries(place))}
    layout = getattr(structure, "layout", None)
    if isinstance(layout, tuple):
        names["structure"] = layout
    elif layout is not None:  # a table of parts
        names["structure"] = tuple(
            f"{part.name} {entry}" for part in layout.parts for entry in range(part.stop - part.start)
        )
    return names


def _entries(place: slice) -> range:
    return range(place.stop - place.start)


def _made_by(ledger: Ledger, dataset: str, run_id: str) -> dict[str, dict[str, FeatureRef]]:
    """Some clips of which a run made anything, with all that they have."""
    found = ledger.clips_of_run(dataset, Stage.EXTRACT, run_id, SHOWN_CLIPS)
    chosen: dict[str, dict[str, FeatureRef]] = {clip_id: {} for clip_id in found}
    for row in ledger.rows_of(dataset, Stage.EXTRACT, chosen):
        if row.state == "done":
            chosen[row.clip_id][row.feature] = FeatureRef.model_validate(row.value["ref"])
    return chosen


def _clip_media(crop: Path) -> ClipMedia:
    frames = np.stack(list(media.read_frames(crop, fps=clock.FPS)))
    return ClipMedia(frames, media.read_sound(crop, 0.0, len(frames) / clock.FPS, clock.SAMPLE_RATE_HZ))

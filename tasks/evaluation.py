"""Do the lips of generated videos follow the sound that drove them?

    report = evaluate_lips(cases, folder)        # folder/lips.csv, report.json, lips.png, compare/<name>.mp4

A generated video is judged beside three rows: the same face driven by another clip's sound (the control, which must not
follow), the truth, and the truth once through the codec (the most that a model on these latents can show).
r is Pearson's correlation of mouth opening and speech envelope at lag 0 over frames 1 and later; means are over clips.
"""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from pydantic import Field

from dualforce_model import clock, media, storage
from dualforce_model.config import Frozen, digest
from dualforce_model.encoders import EncoderChoice, VideoCodec, make_encoder
from dualforce_model.errors import InputError
from dualforce_model.metrics.lips import lip_correlation, mouth_opening, speech_envelope
from tasks import pictures
from tasks.tables import table

CSV_HEAD = (
    "clip",
    "frame",
    "envelope",
    "opening_generated",
    "opening_shuffled",
    "opening_truth",
    "opening_reconstruction",
)
EVALUATION_VERSION = 1  # of the measures: what was judged by an older one is judged again
SHORTEST_FRAMES = clock.num_frames(3)  # of a correlation that says anything
SHOWN_REASONS = 20  # where nothing can be judged
COMPARISON_PX = 288  # small crops are enlarged to about this height where truth and generated stand side by side
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm")
Correlation = Annotated[float, Field(ge=-1.0, le=1.0)]


class EvaluationError(InputError):
    """Videos that cannot be judged; the message names the case and the file."""


class LipCase(Frozen):
    """One generated video and what it is compared with. Paths of files; all videos are crops of the same face."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$", description="of the clip; names its files")
    group: str = Field("seen", pattern=r"^[a-z][a-z0-9_]{0,39}$", description="row of the report it is averaged into")
    sound: str = Field(min_length=1, description="the speech that drove `generated`; any file with sound")
    generated: str = Field(min_length=1, description="the video under judgement")
    shuffled: str = Field(min_length=1, description="the same face, driven by another clip's sound")
    truth: str = Field(min_length=1, description="the real video of this sound")


class ClipLips(Frozen):
    """One clip of the report."""

    name: str
    group: str
    num_frames: int = Field(ge=SHORTEST_FRAMES)
    r: Correlation = Field(description="generated lips against the sound that drove them")
    r_shuffled_audio: Correlation = Field(description="lips driven by another sound, against this one")
    r_truth: Correlation = Field(description="the real lips")
    r_reconstruction: Correlation = Field(description="the real lips once through the codec")


class Lips(Frozen):
    """Means over the clips of a group."""

    r: Correlation
    r_shuffled_audio: Correlation
    r_truth: Correlation
    r_reconstruction: Correlation
    n: int = Field(ge=1, description="clips")


class EvaluationReport(Frozen):
    """What report.json holds."""

    metric: str = "lip_correlation"
    codec: str = Field(description="fingerprint of the codec of the reconstruction row")
    groups: dict[str, Lips]
    clips: tuple[ClipLips, ...] = Field(min_length=1)
    files: dict[str, str] = Field(description="what was written, relative to the report's folder")

    @property
    def lips(self) -> Lips:
        """The group of the first case: the one that is judged."""
        return self.groups[self.clips[0].group]

    def text(self) -> str:
        """For a terminal."""
        head = ("group", "clips", "r", "shuffled", "reconstruction", "truth")
        return table(head, [[name, lips.n, *_rounded(lips)] for name, lips in self.groups.items()])

    def markdown(self) -> str:
        """For the UI: groups, then clips."""
        lines = ["| | clips | r | shuffled sound | reconstruction | truth |", "|---|---|---|---|---|---|"]
        for name, lips in self.groups.items():
            lines.append("| " + " | ".join([f"**{name}**", str(lips.n), *_rounded(lips)]) + " |")
        for clip in self.clips:
            lines.append("| " + " | ".join([f"`{clip.name}`", f"{clip.num_frames} frames", *_rounded(clip)]) + " |")
        return "\n".join(lines)


class VideoLips(Frozen):
    """One video judged against its own sound."""

    name: str
    num_frames: int = Field(ge=SHORTEST_FRAMES)
    r: Correlation


class UnjudgedVideo(Frozen):
    """A video that could not be read or measured."""

    name: str
    reason: str


class FolderReport(Frozen):
    """A folder of videos, each judged against its own sound: how outputs of other systems enter the table."""

    metric: str = "lip_correlation"
    r: Correlation = Field(description="mean over the videos that were judged")
    videos: tuple[VideoLips, ...] = Field(min_length=1)
    unjudged: tuple[UnjudgedVideo, ...] = Field((), description="videos that could not be, and why; in no mean")

    def text(self) -> str:
        """For a terminal."""
        rows: list[tuple[object, ...]] = [(video.name, video.num_frames, f"{video.r:.3f}") for video in self.videos]
        lines = [table(("video", "frames", "r"), [*rows, ("mean", "", f"{self.r:.3f}")])]
        if self.unjudged:
            reasons = [(each.name, each.reason) for each in self.unjudged]
            lines += [f"\n{self.left_out}:", table(("video", "why"), reasons)]
        return "\n".join(lines)

    @property
    def left_out(self) -> str:
        """How many videos are in no mean, in words."""
        return f"{len(self.unjudged)} of {len(self.videos) + len(self.unjudged)} videos could not be judged"


class OwnLips(NamedTuple):
    """A video judged by its own sound, with its curves."""

    row: VideoLips
    envelope: Float32[np.ndarray, " T"]
    opening: Float32[np.ndarray, " T"]


class _Judged(NamedTuple):
    case: LipCase
    row: ClipLips
    envelope: Float32[np.ndarray, " T"]
    openings: dict[str, Float32[np.ndarray, " T"]]  # generated, shuffled, truth, reconstruction


def evaluate_lips(
    cases: Sequence[LipCase],
    folder: Path,
    progress: Callable[[str], object] = lambda name: None,
    codec: EncoderChoice = EncoderChoice(name="dct_video"),  # noqa: B008  # frozen
) -> EvaluationReport:
    """Judge all cases and write lips.csv, report.json, lips.png and compare/<name>.mp4. `progress` hears each name."""
    if not cases or len({case.name for case in cases}) != len(cases):
        raise EvaluationError(f"{len(cases)} cases: at least one is needed, and every name once")
    encoder = make_encoder(codec.name, codec.config)
    encoder.load()
    judged: list[_Judged] = []
    files = {"per frame": "lips.csv", "lips": "lips.png", "report": "report.json"}
    for case in cases:
        judged.append(_judge(case, encoder, folder / "compare" / f"{case.name}.mp4"))
        files[case.name] = f"compare/{case.name}.mp4"
        progress(case.name)
    rows = tuple(item.row for item in judged)
    groups = {
        name: _means([row for row in rows if row.group == name]) for name in dict.fromkeys(row.group for row in rows)
    }
    report = EvaluationReport(codec=encoder.fingerprint(), groups=groups, clips=rows, files=files)
    storage.write_text(folder / "lips.csv", _csv(judged))
    pictures.lips_plot(folder / "lips.png", [_curves(item) for item in judged])
    storage.write_json(folder / "report.json", report.model_dump(mode="json"))
    return report


def evaluate_once(
    cases: Sequence[LipCase], folder: Path, progress: Callable[[str], object], codec: EncoderChoice
) -> tuple[EvaluationReport, bool]:
    """The same, unless exactly this was judged in `folder` before; also says whether anything was computed."""
    paths = [path for case in cases for path in (case.sound, case.generated, case.shuffled, case.truth)]
    names = [(case.name, case.group) for case in cases]
    key = digest(EVALUATION_VERSION, names, [storage.file_digest(Path(path)) for path in paths], codec)
    note, report = folder / "judged.json", folder / "report.json"
    if note.is_file() and report.is_file() and json.loads(note.read_text(encoding="utf-8")) == {"key": key}:
        return EvaluationReport.model_validate_json(report.read_text(encoding="utf-8")), False
    made = evaluate_lips(cases, folder, progress, codec)
    storage.write_json(note, {"key": key})
    return made, True


def evaluate_folder(folder: Path, out: Path) -> FolderReport:
    """Judge every video of a folder against its own sound; writes lips.csv and report.json into `out`.

    A video that cannot be judged is in the report with the reason. Raises EvaluationError where none can be.
    """
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
    if not paths:
        raise EvaluationError(f"{folder}: no videos ({', '.join(VIDEO_SUFFIXES)}) in this folder")
    videos: list[VideoLips] = []
    unjudged: list[UnjudgedVideo] = []
    lines: list[list[object]] = []
    for path in paths:
        found = judge_or_say_why(path, _judge_own)
        if isinstance(found, UnjudgedVideo):
            unjudged.append(found)
            continue
        videos.append(found.row)
        curves = zip(found.envelope, found.opening, strict=True)
        lines += [[found.row.name, t, f"{loud:.6f}", f"{open_:.6f}"] for t, (loud, open_) in enumerate(curves)]
    _refuse_none(videos, unjudged, folder)
    r = float(np.mean([video.r for video in videos]))
    report = FolderReport(r=r, videos=tuple(videos), unjudged=tuple(unjudged))
    storage.write_text(out / "lips.csv", _table_text(CSV_HEAD[:4], lines))
    storage.write_json(out / "report.json", report.model_dump(mode="json"))
    return report


def judge_or_say_why(path: Path, judge: Callable[[Path], OwnLips]) -> OwnLips | UnjudgedVideo:
    """What `judge` says of a video, or why it cannot. What is wrong with this machine, not with the file, is raised."""
    try:
        return judge(path)
    except InputError as error:
        return UnjudgedVideo(name=_text(path.name), reason=_text(str(error).removeprefix(f"{path.name}: ")))
    except (PermissionError, FileNotFoundError) as error:
        return UnjudgedVideo(name=_text(path.name), reason=error.strerror or str(error))


def _judge_own(path: Path) -> OwnLips:
    frames = _frames(path.name, path)
    envelope = speech_envelope(_sound(path.name, path), len(frames))
    opening = mouth_opening(frames)
    row = VideoLips(name=_text(path.name), num_frames=len(frames), r=lip_correlation(opening, envelope))
    return OwnLips(row, envelope, opening)


def _text(name: str) -> str:
    """A name of a file as text, also where its bytes are none."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _refuse_none(videos: Sequence[VideoLips], unjudged: Sequence[UnjudgedVideo], folder: Path) -> None:
    if videos:
        return
    more = f"; and {len(unjudged) - SHOWN_REASONS} more" if len(unjudged) > SHOWN_REASONS else ""
    reasons = "; ".join(f"{video.name}: {video.reason}" for video in unjudged[:SHOWN_REASONS])
    raise EvaluationError(f"{folder}: none of {len(unjudged)} videos can be judged: {reasons}{more}")


def _judge(case: LipCase, codec: VideoCodec, comparison: Path) -> _Judged:
    """Measure one case over the frames that all its videos and its sound have."""
    sound = _sound(case.name, Path(case.sound))
    videos = {
        name: _frames(case.name, Path(path))
        for name, path in (("generated", case.generated), ("shuffled", case.shuffled), ("truth", case.truth))
    }
    length = min(len(sound) // clock.SAMPLES_PER_FRAME, *[len(frames) for frames in videos.values()])
    if length < SHORTEST_FRAMES:
        raise EvaluationError(f"{case.name}: {length} frames in common; at least {SHORTEST_FRAMES} are needed")
    whole = clock.floor_frames(length)
    videos = {name: frames[:whole] for name, frames in videos.items()}
    videos["reconstruction"] = codec.decode(codec.encode(videos["truth"]))
    envelope = speech_envelope(sound, whole)
    openings = {name: mouth_opening(frames) for name, frames in videos.items()}
    r = {name: lip_correlation(opening, envelope) for name, opening in openings.items()}
    scale = max(COMPARISON_PX // videos["generated"].shape[1], 1)
    pictures.side_by_side(comparison, videos["truth"], videos["generated"], sound, scale=scale)
    row = ClipLips(
        name=case.name,
        group=case.group,
        num_frames=whole,
        r=r["generated"],
        r_shuffled_audio=r["shuffled"],
        r_truth=r["truth"],
        r_reconstruction=r["reconstruction"],
    )
    return _Judged(case, row, envelope, openings)


def _frames(name: str, path: Path) -> UInt8[np.ndarray, "T H W 3"]:
    frames = list(media.read_frames(path))
    if len(frames) < SHORTEST_FRAMES:
        raise EvaluationError(f"{name}: {path.name} has {len(frames)} frames; at least {SHORTEST_FRAMES} are needed")
    return np.stack(frames)


def _sound(name: str, path: Path) -> Float32[np.ndarray, " n"]:
    sound = media.read_sound(path)
    if not len(sound):
        raise EvaluationError(f"{name}: {path.name} has no sound to compare lips with")
    return sound


def _means(rows: Sequence[ClipLips]) -> Lips:
    def mean(name: str) -> float:
        return float(np.mean([getattr(row, name) for row in rows]))

    names = ("r", "r_shuffled_audio", "r_truth", "r_reconstruction")
    return Lips(n=len(rows), **{name: mean(name) for name in names})


def _rounded(lips: Lips | ClipLips) -> list[str]:
    values = (lips.r, lips.r_shuffled_audio, lips.r_reconstruction, lips.r_truth)
    return [f"{value:.3f}" for value in values]


def _curves(item: _Judged) -> pictures.LipCurves:
    shown = {name: item.openings[name] for name in ("truth", "generated", "shuffled")}
    note = f"r {item.row.r:.2f}, shuffled {item.row.r_shuffled_audio:.2f}, truth {item.row.r_truth:.2f}"
    return pictures.LipCurves(f"{item.row.name} ({item.row.group})", note, item.envelope, shown)


def _csv(judged: Sequence[_Judged]) -> str:
    lines: list[list[object]] = []
    for item in judged:
        columns = [item.envelope, *[item.openings[name.removeprefix("opening_")] for name in CSV_HEAD[3:]]]
        lines += [[item.row.name, t, *[f"{column[t]:.6f}" for column in columns]] for t in range(item.row.num_frames)]
    return _table_text(CSV_HEAD, lines)


def _table_text(head: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(lines)
    return text.getvalue()

"""What a rerun takes up: clips that were named, that failed, or that lost what they had, and the videos these need."""

from collections.abc import Collection
from contextlib import suppress
from itertools import islice

from dualforce_model.config import Frozen
from dualforce_model.manifests import read_manifest
from dualforce_model.schema import SchemaError, load_snapshot
from dualforce_model.storage import MissingKeyError, Storage
from tasks.acquiring import AcquireWork
from tasks.curating import CurateWork
from tasks.extracting import ExtractWork
from tasks.ledger import Ledger
from tasks.progress import Progress
from tasks.records import Stage
from tasks.stages import Selection, StageConfig, is_lost, plan_stage, target_id
from tasks.text_notes import KnownTexts
from tasks.texts import names_in, remove_damaged
from tasks.work import Work

ROWS_AT_ONCE = 1000  # clips


class Lost(Frozen):
    """Clips whose results are gone or damaged although the ledger calls them done, and texts that were there once."""

    crops: frozenset[str] = frozenset()
    features: frozenset[str] = frozenset()
    texts: frozenset[str] = frozenset()

    @property
    def clips(self) -> frozenset[str]:
        """All that lost something of their own."""
        return self.crops | self.features


def find_lost(curating: CurateWork, extracting: ExtractWork, ledger: Ledger) -> Lost:
    """Look after every crop and every feature; reads all of them."""
    return Lost(crops=_lost_clips(curating, ledger), features=_lost_clips(extracting, ledger))


def find_lost_texts(extracting: ExtractWork, ledger: Ledger, known: KnownTexts, tag: str) -> frozenset[str]:
    """Look after the text of every clip that passes; reads all of them. What is damaged is removed: extract makes
    whatever is not there. Missing counts as lost where the newest snapshot names it.
    """
    clips = ledger.clips(extracting.place.dataset)
    said = {known.said(clip) for clip in clips if clip.clip_id in extracting.crops}
    missing = (said & _named(known.store, tag)) - known.there
    held = said & known.there
    with Progress("inspect-text", len(held), "file") as progress:
        damaged = remove_damaged(known.store, held, lambda name, found: progress.ended([name], found))
    return frozenset(missing | damaged)


def _named(store: Storage, tag: str) -> set[str]:
    """Texts that the snapshot under a tag names; none where it cannot be read, which the next build mends."""
    with suppress(SchemaError, MissingKeyError):
        return names_in(read_manifest(store, load_snapshot(store, tag)))
    return set()


def _lost_clips(work: Work, ledger: Ledger) -> frozenset[str]:
    """Clips that lack something done and wanted, or have it damaged; rows in parts, for all together are gigabytes."""
    dataset, wanted, lost = work.place.dataset, {target.id: target.key for target in work.targets()}, set[str]()
    done = [row for row in ledger.standings(dataset, work.stage) if row.state == "done" and target_id(row) in wanted]
    clips = iter(dict.fromkeys(row.clip_id for row in done))
    with Progress(f"inspect-{work.stage}", len(done), "file") as progress:
        while part := list(islice(clips, ROWS_AT_ONCE)):
            for row in ledger.rows_of(dataset, work.stage, part):
                name = target_id(row)
                if row.state != "done" or name not in wanted:
                    continue
                gone = is_lost(work, wanted[name], row)
                progress.ended([name], "lost" if gone else "sound")
                lost |= {row.clip_id} if gone else set()
    return frozenset(lost)


def with_pieces(ledger: Ledger, dataset: str, clip_ids: Collection[str]) -> frozenset[str]:
    """These clips and the pieces cut from them."""
    pieces = {clip.clip_id for clip in ledger.clips(dataset) if clip.parent_id in clip_ids}
    return frozenset(clip_ids) | pieces


def selections(
    acquiring: AcquireWork, curating: CurateWork, ledger: Ledger, config: StageConfig, tried: frozenset[str], lost: Lost
) -> dict[Stage, Selection]:
    """What each stage takes up so that all that was tried and lost is whole again.

    A video that is gone comes down again only if a crop must be made of it: it may have been deleted to save space.
    """
    dataset = acquiring.place.dataset
    crops = Selection(again=tried | lost.crops)
    _, to_crop = plan_stage(curating, ledger, config, crops)
    videos = {curating.clips[target.clip_id].video_id for target in to_crop}
    here = {row.clip_id for row in ledger.standings(dataset, Stage.ACQUIRE) if row.state == "done"}
    needed = {clip_id for clip_id in acquiring.clips if acquiring.clips.video_id(clip_id) in videos}
    return {
        Stage.ACQUIRE: Selection(again=frozenset(needed | (tried - here))),
        Stage.CURATE: crops,
        Stage.EXTRACT: Selection(again=tried | lost.crops | lost.features),
    }

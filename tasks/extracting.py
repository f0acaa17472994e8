"""Extract: crops that the policy passes become features, packed into shards of the store."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dualforce_model import clock
from dualforce_model.schema import FeatureRef
from dualforce_model.shards import is_sound, pack_shard
from dualforce_model.storage import Storage, sweep_temporaries
from tasks.accounting import AcrossClips, verdicts
from tasks.extract import (
    BEGUN,
    ExtractConfig,
    ExtractJob,
    FeatureKeys,
    is_part,
    load_part,
    part_name,
    wanted_features,
)
from tasks.leases import Lease
from tasks.ledger import Ledger, Relisting, Row
from tasks.place import Place
from tasks.policy import Policy
from tasks.pool import Job, WorkerSpec
from tasks.records import Attempt, FailureClass, Quarantined, Reason, Stage
from tasks.work import Fault, Outcome, Refusal, Target, Work, not_made

SEAL_BYTES = 256 * 2**20
SEAL_AFTER_S = 120.0
TORN_AFTER_S = 600.0  # a part is written in seconds: a temporary of that age is a dead worker's
FRAME_BYTES = 512 * 512 * 3  # of a decoded crop at full size, for the bound on memory


@dataclass(frozen=True, slots=True)
class Crop:
    """What extract needs to know of a crop, without its scores: those of a whole data set are gigabytes."""

    path: str
    digest: str
    num_frames: int


class ExtractWork(Work):
    """Targets are features of clips; a job makes all that one clip lacks from a single decode."""

    stage = Stage.EXTRACT

    def __init__(self, config: ExtractConfig, policy: Policy, place: Place, ledger: Ledger) -> None:
        super().__init__(place, ledger)
        self.config = config
        self.store = Storage(place.store_url)
        self.across = AcrossClips(ledger, place.dataset, policy)
        self.crops = {
            row.clip_id: Crop(str(row.value["path"]), str(row.value["digest"]), int(row.value["num_frames"]))
            for row, verdict in verdicts(ledger, place.dataset, policy, self.across)
            if not isinstance(verdict, Quarantined)
        }
        self.waiting: dict[str, list[tuple[Target, dict[str, Any]]]] = {}  # modality -> parts no shard holds yet
        self.waiting_bytes = 0
        self.waiting_since: float | None = None

    @property
    def spec(self) -> WorkerSpec:
        kwargs = {
            "config": self.config.model_dump(mode="json"),
            "media_root": str(self.place.media_root.resolve()),
            "parts_root": str(self.place.parts_root.resolve()),
        }
        return WorkerSpec(
            target="tasks.extract:ExtractWorker",
            kwargs=kwargs,
            jobs_per_message=self.config.clips_per_message,
            jobs_at_once=self.config.clips_per_batch,
        )

    def targets(self) -> list[Target]:
        keys = FeatureKeys(self.config)
        return [
            Target(clip_id, key, modality)
            for clip_id, crop in self.crops.items()
            for modality, key in keys(crop.digest).items()
        ]

    def enlist(self, lease: Lease) -> Relisting:
        """Remove what killed runs left: parts that a shard holds, parts that nobody wants any more, and torn ones."""
        root = self.place.parts_root
        for mark in root.glob(f"*/*{BEGUN}"):  # of an earlier run's dead workers: nobody else works here
            mark.unlink(missing_ok=True)
        sweep_temporaries(root, TORN_AFTER_S)
        left = {path.relative_to(root).as_posix(): path for path in root.glob("*/*.safetensors")}
        if left:  # hardly ever
            for row in self.ledger.stream(self.place.dataset, self.stage, "done", unlisted=True):
                if (path := left.get(str(row.value["part"]))) is not None:
                    path.unlink(missing_ok=True)
            wanted = {part_name(target.feature, target.clip_id, target.key) for target in self.targets()}
            for name in left.keys() - wanted:
                left[name].unlink(missing_ok=True)
        return Relisting()

    def intact(self, row: Row) -> bool:
        return is_sound(self.store, FeatureRef.model_validate(row.value["ref"]))

    def jobs(self, targets: Sequence[Target]) -> Iterator[Job]:
        by_clip: dict[str, list[Target]] = {}
        for target in targets:
            by_clip.setdefault(target.clip_id, []).append(target)
        for clip_id, served in by_clip.items():
            self.serving[clip_id] = tuple(served)
            crop = self.crops[clip_id]
            payload = ExtractJob(
                job_id=clip_id,
                crop_path=crop.path,
                crop_digest=crop.digest,
                num_frames=crop.num_frames,
                wanted={target.feature: target.key for target in served},
            )
            num_bytes = crop.num_frames * FRAME_BYTES
            seconds = crop.num_frames / clock.FPS
            yield Job(job_id=clip_id, payload=payload.model_dump(mode="json"), num_bytes=num_bytes, seconds=seconds)

    def results(self, attempt: Attempt) -> list[tuple[Target, Outcome]]:
        """Withhold the parts until a shard holds them; seal when enough bytes or time have gathered."""
        told: list[tuple[Target, Outcome]] = []
        for target in self.serving[attempt.job_id]:
            said = self._said(target, attempt)
            if not isinstance(said, dict):
                told.append((target, said))
                continue
            self.waiting.setdefault(target.feature, []).append((target, said))
            self.waiting_bytes += (self.place.parts_root / said["part"]).stat().st_size
        self.waiting_since = self.waiting_since or time.monotonic()
        old = time.monotonic() - self.waiting_since > SEAL_AFTER_S
        return [*told, *(self.flush() if old or self.waiting_bytes >= SEAL_BYTES else [])]

    def _said(self, target: Target, attempt: Attempt) -> Outcome:
        """What became of one feature. Parts that a worker finished before it died are as good as any."""
        if attempt.value is None:
            part = part_name(target.feature, target.clip_id, target.key)
            there = is_part(self.place.parts_root / part, target.feature)
            return {"part": part, "key": target.key} if there else not_made(attempt)
        said: dict[str, Any] = attempt.value[target.feature]
        if "reason" in said:
            return Refusal(Reason(said["reason"]), said["measured"])
        if "failure" in said:
            return Fault(FailureClass(said["failure"]), said["traceback"])
        return said

    def flush(self) -> list[tuple[Target, dict[str, Any]]]:
        """Pack what waits into one shard per modality and fingerprint; the ledger hears of a part only after that."""
        sealed = [result for modality, parts in sorted(self.waiting.items()) for result in self._seal(modality, parts)]
        self.waiting, self.waiting_bytes, self.waiting_since = {}, 0, None
        return sealed

    def _seal(self, modality: str, parts: list[tuple[Target, dict[str, Any]]]) -> list[tuple[Target, dict[str, Any]]]:
        fingerprint = self._fingerprint(modality)
        features = {target.clip_id: load_part(self.place.parts_root / part["part"]) for target, part in parts}
        keys = {target.clip_id: target.key for target, _ in parts}
        refs: dict[str, FeatureRef] = pack_shard(self.store, modality, fingerprint, features, keys)
        return [
            (target, {"ref": refs[target.clip_id].model_dump(mode="json"), "part": part["part"]})
            for target, part in parts
        ]

    def _fingerprint(self, modality: str) -> str:
        wanted = {str(name): fingerprint for name, (_, fingerprint) in wanted_features(self.config, "").items()}
        return wanted[modality]

    def recorded(self, rows: Sequence[Row]) -> None:
        """A shard holds these parts and the ledger knows it: remove them."""
        for row in rows:
            if row.state == "done":
                (self.place.parts_root / row.value["part"]).unlink(missing_ok=True)

"""Nets of transformers and diffusers out of a folder as the hub has them: settings in JSON, weights beside it.

class Hubert(PublishedEncoder):
    form = Form("transformers", "HubertModel", ("hubert",))

The folder lies on this machine: named, below the folder of weights, or in the hub's cache under a pinned commit.
Nothing is downloaded. What is read from it is checked before a net is built, no code that comes with it is run, and its
weights have to be all that the net needs and nothing else.
"""

import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn, Self, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dualforce_model.batching import is_out_of_memory
from dualforce_model.config import ConfigError, Frozen, digest
from dualforce_model.pretrained import WEIGHTS_FOLDER, MissingWeightsError, Weights, check_vouched, weights_digest
from dualforce_model.pretrained.hub import COMMIT, REPOSITORY, commit_folder
from dualforce_model.weight_files import INDEX_SUFFIX, WeightsError, listed, read_index, read_json, refuse

CONFIG_NAME, PREPROCESSOR_NAME = "config.json", "preprocessor_config.json"
STEMS = {  # names of weights, safe ones first
    "transformers": ("model.safetensors", "pytorch_model.bin"),
    "diffusers": ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
}
MAX_JSON_BYTES = 1 << 20
# What config.json says of who wrote it and how it was stored; what the net computes in is ours to say.
UNSAID = {"_name_or_path", "transformers_version", "_diffusers_version", "architectures", "torch_dtype", "dtype"}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
EXTRAS = {"transformers": "; pip install 'dualforce[encoders]'", "diffusers": ""}
ToldT = TypeVar("ToldT", bound="Told")


class PublishedConfig(Frozen):
    """Settings of every encoder that reads such a folder."""

    weights: Path | None = Field(
        None, description="folder of the model (config.json and weights); empty: see `dualforce weights list`"
    )
    hub: str | None = Field(
        None,
        pattern=REPOSITORY,
        description="repository of the Hugging Face hub, owner/name, in place of a folder; `dualforce weights pull "
        "NAME --hub` fetches it, and nothing else does",
    )
    revision: str | None = Field(
        None,
        pattern=COMMIT,
        description="commit of that repository, 40 hex digits: branches and tags may name another one tomorrow",
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="what the net computes in")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.hub is not None and self.weights is not None:
            raise ValueError(f"weights {self.weights} and hub {self.hub} are two places: name one")
        if self.hub is not None and self.revision is None:
            raise ValueError(f"hub {self.hub} without a revision: name the commit (40 hex digits)")
        if self.hub is None and self.revision is not None:
            raise ValueError("a revision without a hub: it is a commit of what hub names")
        return self


class Told(BaseModel):
    """What a JSON file of the folder says, as far as it is used; fields that are left out have the class's default."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=False)


@dataclass(frozen=True)
class Form:
    """Which net it is, and how its folder looks."""

    package: Literal["transformers", "diffusers"]
    net: str  # class of that package
    kinds: tuple[str, ...]  # what config.json calls it (`model_type` or `_class_name`)
    subfolder: str = ""  # where it lies in a repository of several models
    others: tuple[str, ...] = ()  # beginnings of names of tensors that belong to other parts of what was published
    also: tuple[str, ...] = ()  # what else is read of a repository, as paths in it

    @property
    def kind_key(self) -> str:
        """Where config.json says its kind."""
        return "model_type" if self.package == "transformers" else "_class_name"

    @property
    def parts(self) -> tuple[str, ...]:
        """Patterns of what is read of a repository, whatever its weights are called."""
        return tuple(dict.fromkeys(part for stem in STEMS[self.package] for part in self.parts_with(stem)))

    def parts_with(self, stem: str) -> tuple[str, ...]:
        """Patterns of what is read of a repository whose weights have that name."""
        base, _, suffix = stem.rpartition(".")
        names = (CONFIG_NAME, PREPROCESSOR_NAME, f"{base}*.{suffix}", f"{stem}{INDEX_SUFFIX}")
        return (*(f"{place}{each}" for place in self.places for each in names), *self.also)

    @property
    def places(self) -> tuple[str, ...]:
        """Where a repository may have it: at its root, or in a folder."""
        return ("", f"{self.subfolder}/") if self.subfolder else ("",)


class PublishedEncoder:
    """What these encoders have in common: found when built, read by `load`."""

    name: ClassVar[str]
    version: ClassVar[int]
    weights: ClassVar[Weights | None]
    form: ClassVar[Form]
    unsaid: ClassVar[frozenset[str]] = frozenset({"weights", "hub", "revision"})  # settings that decide no number

    def __init__(self, config: PublishedConfig) -> None:
        package = self.form.package
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"encoder {self.name}: the package {package} is not installed{EXTRAS[package]}")
        self._settings = config
        self.folder = self._find()
        self.said = self._read(CONFIG_NAME)
        if self.said.get(self.form.kind_key) not in self.form.kinds:
            found, key = self.said.get(self.form.kind_key), self.form.kind_key
            self._refuse(f"{CONFIG_NAME} has {key} {found!r}, expected {' or '.join(self.form.kinds)}")
        if self.said.get("quantization_config") is not None or (self.folder / "adapter_config.json").exists():
            self._refuse("quantised, or an adapter of another model; take the plain weights")
        if self.said.get("transformers_weights") is not None:  # a file that is opened in place of those we look at
            self._refuse(f"{CONFIG_NAME} names a file of weights of its own; take the plain weights")
        self._net: Any = None
        self._device = ""

    @property
    def weights_digest(self) -> str:
        """Over names and digests of the files that are read, wherever they lie; of config.json, what is of the net.

        Raises UntrustedWeightsError for pickled files that nobody vouches for.
        """
        self._check_vouched()
        return digest([[file.name, self._file_digest(file)] for file in sorted(self._files())])

    def fingerprint(self) -> str:
        """32 hex digits over name, version, settings and content of the files; where these lie does not matter."""
        settings = self._settings.model_dump(mode="json", exclude=set(self.unsaid))
        return digest(self.name, self.version, settings, self.weights_digest)

    def load(self, device: str = "cpu") -> None:
        """Read the weights to a device. Raises DamagedWeightsError, and UntrustedWeightsError for pickled files that
        nobody vouches for.
        """
        if self._net is None:
            self._check_vouched()
            self._net = self._open()
        self._net.to(device)
        self._device = device

    @property
    def net(self) -> Any:
        """The net, ready to answer."""
        assert self._net is not None, f"{self.name}: load() comes first"
        return self._net

    @property
    def dtype(self) -> torch.dtype:
        """What the net computes in."""
        return DTYPES[self._settings.precision]

    @property
    def device(self) -> str:
        """Where the net is."""
        assert self._device, f"{self.name}: load() comes first"
        return self._device

    def told(self, kind: type[ToldT], data: Mapping[str, Any], file: str = CONFIG_NAME) -> ToldT:
        """The fields of a JSON file that matter here. Raises DamagedWeightsError."""
        try:
            return kind.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            self._refuse(f"{file}: {where}: {first['msg']}, found {str(first['input'])[:80]!r}")

    def preprocessor(self) -> dict[str, Any]:
        """What the folder says of the input's preparation; nothing where it does not say."""
        return self._read(PREPROCESSOR_NAME) if (self.folder / PREPROCESSOR_NAME).is_file() else {}

    # ------------------------------------------------------------------------------------------------------- folder

    def _find(self) -> Path:
        assert self.weights is not None
        if self._settings.hub is not None:
            root = self._of_hub(self._settings.hub, str(self._settings.revision))
        else:
            root = self.weights.find(self._settings.weights)
        if root.is_file():
            raise MissingWeightsError(f"{root}: a file; {self.name} needs the folder that holds it and {CONFIG_NAME}")
        inside = root / self.form.subfolder
        return inside if not (root / CONFIG_NAME).is_file() and (inside / CONFIG_NAME).is_file() else root

    def _of_hub(self, hub: str, revision: str) -> Path:
        """The folder with that commit, as it was pulled or as the hub's cache has it. The network is not asked."""
        pulled = Path(WEIGHTS_FOLDER).expanduser() / commit_folder(hub, revision)
        for root in (pulled, _cached(self.form, hub, revision)):
            if root is not None and any(_is_whole(root, self.form, stem) for stem in STEMS[self.form.package]):
                return root
        raise MissingWeightsError(
            f"{hub} at {revision}: {self.name} needs it, and it is whole neither in {pulled} nor in the hub's cache. "
            f"Nothing is downloaded for you: get it with: {self._command}, or name a folder in config.weights"
        )

    @property
    def _command(self) -> str:
        assert self.weights is not None
        told = self._settings
        return self.weights.command + (f" --hub {told.hub} --revision {told.revision}" if told.hub is not None else "")

    def _check_vouched(self) -> None:
        files = self._weight_files()
        if not self._is_safe(files):
            pickled = [file for file in files if not file.name.endswith(INDEX_SUFFIX)]
            check_vouched(pickled, command=f"{self._command} --again")

    def _is_safe(self, files: list[Path]) -> bool:
        """Whether these are safetensors, all of them."""
        return files[0].name.startswith(STEMS[self.form.package][0])

    def _read(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        if not path.is_file():
            assert self.weights is not None
            raise self.weights.missing(self.folder)
        if path.stat().st_size > MAX_JSON_BYTES:
            self._refuse(f"{name} has {path.stat().st_size} bytes, more than any such file")
        try:
            found = read_json(path, refuse)
        except WeightsError as error:
            self._refuse(error)
        assert found is not None, "refuse() raises"
        return found

    def _weight_files(self) -> list[Path]:
        """Files with the weights: one, or an index and the shards that it names."""
        for name in STEMS[self.form.package]:
            single, index = self.folder / name, self.folder / f"{name}{INDEX_SUFFIX}"
            if single.is_file() and index.is_file():  # the packages differ in which of the two they open
                self._refuse(f"{single.name} and {index.name}; remove the one that is not meant")
            if single.is_file():
                return [single]
            if not index.is_file():
                continue
            try:
                shards = [self.folder / shard for shard in read_index(index, refuse)]
            except WeightsError as error:
                self._refuse(error)
            pickled = [shard.name for shard in shards if shard.suffix != ".safetensors"]
            if pickled and name.endswith(".safetensors"):
                self._refuse(f"{index.name} names {listed(pickled)}; its shards are safetensors and nothing else")
            missing = [shard.name for shard in shards if not shard.is_file()]
            if missing:
                self._refuse(f"no {listed(missing)}, which {index.name} names")
            return [index, *shards]
        assert self.weights is not None
        names = " or ".join(STEMS[self.form.package])
        raise MissingWeightsError(
            f"{self.folder}: no {names} in it, and no index of its shards; get it with: {self._command}"
        )

    def _file_digest(self, file: Path) -> str:
        assert self.weights is not None
        if file != self.folder / CONFIG_NAME:
            return weights_digest(self.weights.name, file)
        try:
            return digest(_spoken(self.said))
        except ValueError as error:  # NaN, or half a character: canonical JSON has neither
            self._refuse(f"{CONFIG_NAME}: {error}")

    def _files(self) -> list[Path]:
        spoken = [self.folder / name for name in (CONFIG_NAME, PREPROCESSOR_NAME)]
        return [file for file in spoken if file.is_file()] + self._weight_files()

    # ---------------------------------------------------------------------------------------------------------- net

    def _open(self) -> Any:
        safe = self._is_safe(self._weight_files())
        options: dict[str, Any] = {"local_files_only": True, "use_safetensors": safe, "output_loading_info": True}
        if self.form.package == "transformers":
            # The folder may not choose code for attention, and the hub's own converter is not asked.
            options |= {"dtype": self.dtype, "attn_implementation": "sdpa", "weights_only": True}
        else:
            options |= {"torch_dtype": self.dtype}
        kind = getattr(importlib.import_module(self.form.package), self.form.net)
        try:
            with _no_bars(self.form.package):
                net, info = kind.from_pretrained(str(self.folder), **options)
        except Exception as error:  # a hostile or torn folder makes the package fail in ways of its own
            if is_out_of_memory(error):
                raise
            self._refuse(error)
        self._complete(info)
        for name, tensor in net.named_parameters():
            if tensor.is_meta or not bool(torch.isfinite(tensor).all()):
                self._refuse(f"{name} holds NaN or infinity, or nothing")
        return net.requires_grad_(False).eval()

    def _complete(self, info: Mapping[str, Any]) -> None:
        """The file has all that the net needs, and nothing that this net does not know."""
        missing = sorted(info["missing_keys"])
        unknown = sorted(name for name in info["unexpected_keys"] if not name.startswith(self.form.others))
        other = sorted(str(each) for each in (*info.get("mismatched_keys", ()), *info.get("error_msgs", ())))
        if missing:
            self._refuse(f"no {listed(missing)}")
        if unknown:
            self._refuse(f"{listed(unknown)} has no place in {self.form.net}")
        if other:
            self._refuse(f"of another shape: {listed(other)}")

    def _refuse(self, why: object) -> NoReturn:
        assert self.weights is not None
        raise self.weights.damaged(self.folder, why) from (why if isinstance(why, Exception) else None)


@contextmanager
def _no_bars(package: str) -> Iterator[None]:
    """Without the package's progress bars, which a log of many workers has no use for."""
    bars = importlib.import_module(f"{package}.utils.logging")
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


def _spoken(said: Any) -> Any:
    """What a config.json says of the net, at any depth."""
    if isinstance(said, list):
        return [_spoken(each) for each in said]
    return {key: _spoken(each) for key, each in said.items() if key not in UNSAID} if isinstance(said, dict) else said


def _cached(form: Form, hub: str, revision: str) -> Path | None:
    """The hub's cache's folder of a commit as it is; None where there is none, or the client knows that it is torn."""
    from huggingface_hub import snapshot_download

    for stem in STEMS[form.package]:
        parts = list(form.parts_with(stem))
        try:
            return Path(snapshot_download(hub, revision=revision, allow_patterns=parts, local_files_only=True))
        except OSError:  # of weights by this name; all folders of a commit are one
            continue
    return None


def _is_whole(root: Path, form: Form, stem: str) -> bool:
    """Whether the folder has settings and weights by this name, and of what else is read at least something.

    Newer versions of the hub's client know by themselves what a download that broke off has left out.
    """
    if form.also and not any((root / each).is_file() for each in form.also):
        return False
    for folder in (root / place for place in form.places):
        index = folder / f"{stem}{INDEX_SUFFIX}"
        sharded = index.is_file() and not (folder / stem).is_file()
        needed = read_index(index, lambda *_: None) if sharded else [stem]  # who reads it says what is wrong with it
        if all((folder / each).is_file() for each in (CONFIG_NAME, *needed)):
            return True
    return False

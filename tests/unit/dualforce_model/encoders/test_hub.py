"""Folders of the hub: what is read, what is refused, where they are looked for."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dualforce_model.config import ConfigError
from dualforce_model.encoders import ENCODERS, Encoder, make_encoder
from dualforce_model.pretrained import DamagedWeightsError, MissingWeightsError, UntrustedWeightsError
from dualforce_model.pretrained.pins import PINS_NAME
from tests.memory_errors import OUT_OF_MEMORY
from tests.pickled import save_pickled, vouched
from tests.unit.dualforce_model.encoders.tiny import TINY, save_whole_clip

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SAFE = {"wan_vae": "diffusion_pytorch_model.safetensors"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: save(tmp_path_factory.mktemp(name)) for name, save in TINY.items()}


@pytest.fixture
def copied(folders: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders["dinov2"], tmp_path / "copy"))


def answer(encoder: Any) -> np.ndarray:
    rng = np.random.default_rng(0)
    if encoder.modality == "audio":
        return np.asarray(encoder(rng.standard_normal(640 * 3).astype(np.float32)))
    frames = rng.integers(0, 256, (1, 64, 64, 3), np.uint8)
    return np.asarray(encoder.encode(frames) if encoder.modality == "video" else encoder(frames[0]))


def edit(folder: Path, name: str = "config.json", **settings: Any) -> Path:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


def loaded(name: str, **settings: Any) -> Any:
    encoder = make_encoder(name, settings)
    encoder.load()
    return encoder


@pytest.mark.parametrize("name", TINY)
def test_the_protocol(folders: dict[str, Path], name: str, tmp_path: Path) -> None:
    encoder = make_encoder(name, {"weights": folders[name]})
    assert isinstance(encoder, Encoder)
    assert type(encoder) is ENCODERS[name]
    assert encoder.weights is not None
    assert encoder.weights.name == name
    with pytest.raises(AssertionError, match=r"load\(\) comes first"):
        answer(encoder)
    encoder.load()
    found = answer(encoder)
    assert found.dtype == np.float32
    assert found.shape[1] == encoder.num_features
    elsewhere = loaded(name, weights=shutil.copytree(folders[name], tmp_path / "moved"))
    assert elsewhere.fingerprint() == encoder.fingerprint()
    assert np.array_equal(answer(elsewhere), found)


@pytest.mark.parametrize("name", TINY)
def test_the_fingerprint_follows_weights_and_settings(folders: dict[str, Path], name: str, tmp_path: Path) -> None:
    plain = make_encoder(name, {"weights": folders[name]})
    assert make_encoder(name, {"weights": folders[name], "precision": "bf16"}).fingerprint() != plain.fingerprint()
    other = Path(shutil.copytree(folders[name], tmp_path / "other"))
    (other / "README.md").write_text("words that no net reads")
    assert make_encoder(name, {"weights": other}).fingerprint() == plain.fingerprint()
    path = other / SAFE.get(name, "model.safetensors")
    save_file({key: tensor + 1 for key, tensor in load_file(path).items()}, path, {"format": "pt"})
    assert make_encoder(name, {"weights": other}).weights_digest != plain.weights_digest


@pytest.mark.parametrize("name", TINY)
def test_who_wrote_config_json_is_no_part_of_the_fingerprint(
    folders: dict[str, Path], name: str, tmp_path: Path
) -> None:
    plain = make_encoder(name, {"weights": folders[name]}).fingerprint()
    other = edit(
        Path(shutil.copytree(folders[name], tmp_path / "other")),
        _name_or_path="somebody/else", transformers_version="9.9", _diffusers_version="9.9", architectures=["Else"],
        torch_dtype="float16", dtype="float16",
    )  # fmt: skip
    path = other / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=7, sort_keys=True))
    assert make_encoder(name, {"weights": other}).fingerprint() == plain
    assert make_encoder(name, {"weights": edit(other, layer_norm_eps=0.5)}).fingerprint() != plain


def test_nor_is_it_in_the_parts_of_a_config(tmp_path: Path) -> None:
    folder = save_whole_clip(tmp_path)
    plain, vision = make_encoder("clip", {"weights": folder}), json.loads((folder / "config.json").read_text())
    part = vision["vision_config"]
    edit(folder, vision_config=part | {"transformers_version": "9.9", "torch_dtype": "float16"})
    assert make_encoder("clip", {"weights": folder}).fingerprint() == plain.fingerprint()
    edit(folder, vision_config=part | {"hidden_act": "relu"})
    assert make_encoder("clip", {"weights": folder}).fingerprint() != plain.fingerprint()


@pytest.mark.parametrize("text", ["NaN", '"\\ud800"'])
def test_a_config_without_canonical_form_is_refused(copied: Path, text: str) -> None:
    path = copied / "config.json"
    path.write_text(path.read_text().replace("{", f'{{"oddity": {text},', 1))
    with pytest.raises(DamagedWeightsError, match=r"config\.json"):
        make_encoder("dinov2", {"weights": copied}).fingerprint()


@pytest.mark.parametrize("name", TINY)
def test_half_precision_stays_near(folders: dict[str, Path], name: str) -> None:
    exact, half = (answer(loaded(name, weights=folders[name], precision=each)) for each in ("fp32", "bf16"))
    assert half.dtype == np.float32
    assert not np.array_equal(exact, half)
    assert np.abs(half - exact).mean() < 0.02 * np.abs(exact).max()


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", TINY)
def test_on_cuda_the_answer_is_the_same(folders: dict[str, Path], name: str, precision: str) -> None:
    exact = answer(loaded(name, weights=folders[name]))
    encoder = make_encoder(name, {"weights": folders[name], "precision": precision})
    encoder.load("cuda")
    assert all(each.device.type == "cuda" for each in encoder.net.parameters())
    assert np.abs(answer(encoder) - exact).mean() < (2e-3 if precision == "fp32" else 0.02) * np.abs(exact).max()


def test_old_files_of_torch_are_read_and_safe_ones_first(copied: Path, folders: dict[str, Path]) -> None:
    state = load_file(copied / "model.safetensors")
    save_pickled({key: tensor + 1 for key, tensor in state.items()}, copied / "pytorch_model.bin")
    safe = answer(loaded("dinov2", weights=copied))
    assert np.array_equal(safe, answer(loaded("dinov2", weights=folders["dinov2"])))
    save_pickled(state, copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    assert np.array_equal(safe, answer(loaded("dinov2", weights=copied)))


@pytest.mark.usefixtures("no_vouchers")
def test_an_old_file_that_nobody_vouches_for_is_not_opened(copied: Path) -> None:
    state = load_file(copied / "model.safetensors")
    (copied / "model.safetensors").unlink()
    torch.save(state, copied / "pytorch_model.bin")
    refused = rf"pytorch_model\.bin: SHA-256 [0-9a-f]{{64}}; nobody has .*: dualforce weights pin {copied}"
    encoder = make_encoder("dinov2", {"weights": copied})
    for asked in (encoder.fingerprint, encoder.load):
        with pytest.raises(UntrustedWeightsError, match=refused):
            asked()
    vouched(copied / "pytorch_model.bin")
    encoder.load()
    torch.save({key: tensor + 1 for key, tensor in state.items()}, copied / "pytorch_model.bin")
    with pytest.raises(UntrustedWeightsError, match="dualforce weights pull dinov2 --again"):
        loaded("dinov2", weights=copied)


def test_a_folder_does_not_vouch_for_its_own_files(copied: Path, no_vouchers: Path) -> None:
    state = load_file(copied / "model.safetensors")
    (copied / "model.safetensors").unlink()
    save_pickled(state, copied / "pytorch_model.bin")
    assert (copied / PINS_NAME).is_file()
    for note in no_vouchers.iterdir():
        note.unlink()
    with pytest.raises(UntrustedWeightsError, match="nobody has published a digest for it, or vouched for it here"):
        loaded("dinov2", weights=copied)


def test_a_file_that_only_looks_as_it_was_is_not_opened(copied: Path) -> None:
    state = load_file(copied / "model.safetensors")
    (copied / "model.safetensors").unlink()
    path = save_pickled(state, copied / "pytorch_model.bin")
    before, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(UntrustedWeightsError):
        loaded("dinov2", weights=copied)


def sharded(folder: Path, stem: str, shard: str) -> None:
    """An index that names one shard with all tensors."""
    names = load_file(folder / "model.safetensors").keys()
    (folder / f"{stem}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, shard)}))


@pytest.mark.usefixtures("no_vouchers")
def test_no_way_leads_to_a_pickle_past_the_check(copied: Path) -> None:
    """An index of safe shards that names another; one beside the file; settings that name a file of their own."""
    state = load_file(copied / "model.safetensors")
    torch.save(state, copied / "other.bin")
    edit(copied, transformers_weights="other.bin")
    with pytest.raises(DamagedWeightsError, match="names a file of weights of its own"):
        loaded("dinov2", weights=copied)
    edit(copied, transformers_weights=None)
    sharded(copied, "model.safetensors", "other.bin")
    with pytest.raises(DamagedWeightsError, match="remove the one that is not meant"):
        loaded("dinov2", weights=copied)
    sharded(copied, "pytorch_model.bin", "other.bin")
    (copied / "model.safetensors").unlink()
    with pytest.raises(DamagedWeightsError, match=r"names other\.bin; its shards are safetensors and nothing else"):
        loaded("dinov2", weights=copied)
    (copied / "model.safetensors.index.json").unlink()
    with pytest.raises(UntrustedWeightsError, match=r"other\.bin: SHA-256"):
        loaded("dinov2", weights=copied)


def test_nothing_in_an_old_file_is_run(copied: Path, tmp_path: Path) -> None:
    class Mischief:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "was run",)

    (copied / "model.safetensors").unlink()
    save_pickled({"embeddings.cls_token": Mischief()}, copied / "pytorch_model.bin")
    with pytest.raises(DamagedWeightsError, match="not a model that dinov2 can use"):
        loaded("dinov2", weights=copied)
    assert not (tmp_path / "was run").exists()


def test_names_of_old_files_are_understood(folders: dict[str, Path], tmp_path: Path) -> None:
    """As HuBERT is published: a file of torch whose weight norm has the names of old."""
    folder = Path(shutil.copytree(folders["hubert"], tmp_path / "old"))
    parts = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    state, old = load_file(folder / "model.safetensors"), {}
    for name, tensor in state.items():
        new = next((part for part in parts if name.endswith(part)), None)
        old[name if new is None else name.removesuffix(new) + parts[new]] = tensor
    assert sum(name.endswith(("weight_g", "weight_v")) for name in old) == 2
    save_pickled(old, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert np.array_equal(answer(loaded("hubert", weights=folder)), answer(loaded("hubert", weights=folders["hubert"])))


def test_a_missing_package_is_named(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"transformers is not installed; pip install 'dualforce\[encoders\]'"):
        make_encoder("hubert", {"weights": folders["hubert"]})


@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
def test_weights_that_memory_does_not_hold_are_not_called_damaged(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    import transformers

    def full(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(transformers.Dinov2Model, "from_pretrained", full)
    with pytest.raises(type(error)) as told:
        loaded("dinov2", weights=folders["dinov2"])
    assert told.value is error


def test_what_is_missing_or_unknown_is_named(copied: Path) -> None:
    path = copied / "model.safetensors"
    state = load_file(path)
    gone = next(key for key in state if "layernorm" in key)
    kept = {key: tensor for key, tensor in state.items() if key != gone}
    save_file(kept, path, {"format": "pt"})
    with pytest.raises(DamagedWeightsError, match=rf"no {gone}"):
        loaded("dinov2", weights=copied)
    save_file(state | {"classifier.weight": torch.zeros(2), "stranger.weight": torch.zeros(2)}, path, {"format": "pt"})
    with pytest.raises(DamagedWeightsError, match=r"stranger\.weight has no place in Dinov2Model") as caught:
        loaded("dinov2", weights=copied)
    assert "classifier" not in str(caught.value)
    save_file(state | {gone: state[gone] * torch.nan}, path, {"format": "pt"})
    with pytest.raises(DamagedWeightsError, match="NaN"):
        loaded("dinov2", weights=copied)
    save_file(state | {gone: state[gone][:5].clone()}, path, {"format": "pt"})
    with pytest.raises(DamagedWeightsError, match="not a model that dinov2 can use"):
        loaded("dinov2", weights=copied)


def test_missing_weights_of_the_vae_are_named(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["wan_vae"], tmp_path / "copy"))
    path = folder / SAFE["wan_vae"]
    state = load_file(path)
    save_file({key: tensor for key, tensor in state.items() if key != "quant_conv.bias"}, path, {"format": "pt"})
    with pytest.raises(DamagedWeightsError, match=r"quant_conv\.bias"):
        loaded("wan_vae", weights=folder)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DamagedWeightsError, match="not a model that wan_vae can use"):
        loaded("wan_vae", weights=folder)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"model_type": "dinov2_with_registers"}, "model_type 'dinov2_with_registers', expected dinov2"),
        ({"model_type": None}, "model_type None"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantised"),
        ({"hidden_size": 10**9}, "hidden_size"),
        ({"num_hidden_layers": "many"}, "num_hidden_layers"),
        ({"patch_size": 15}, "no multiple of patches of 15"),
    ],
)
def test_another_config_is_refused_before_a_net_is_built(
    copied: Path, settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(DamagedWeightsError, match=complaint):
        make_encoder("dinov2", {"weights": edit(copied, **settings)})


@pytest.mark.parametrize("text", ["", "[]", "{", '"' + "x" * (1 << 20) + '"'])
def test_a_torn_config_is_refused(copied: Path, text: str) -> None:
    (copied / "config.json").write_text(text)
    with pytest.raises(DamagedWeightsError, match=r"config\.json"):
        make_encoder("dinov2", {"weights": copied})


def test_shards_are_read_and_stay_in_their_folder(copied: Path, folders: dict[str, Path]) -> None:
    state = load_file(copied / "model.safetensors")
    (copied / "model.safetensors").unlink()
    keys, index = sorted(state), copied / "model.safetensors.index.json"
    halves = {"model-1.safetensors": keys[::2], "model-2.safetensors": keys[1::2]}
    for name, part in halves.items():
        save_file({key: state[key] for key in part}, copied / name, {"format": "pt"})
    places = {key: name for name, part in halves.items() for key in part}
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    whole = answer(loaded("dinov2", weights=folders["dinov2"]))
    assert np.array_equal(answer(loaded("dinov2", weights=copied)), whole)
    (copied / "model-2.safetensors").rename(copied.parent / "outside.safetensors")
    with pytest.raises(DamagedWeightsError, match=r"no model-2\.safetensors"):
        loaded("dinov2", weights=copied)
    outside = {key: name.replace("model-2", "../outside") for key, name in places.items()}
    index.write_text(json.dumps({"metadata": {}, "weight_map": outside}))
    with pytest.raises(DamagedWeightsError, match="may not leave its folder"):
        make_encoder("dinov2", {"weights": copied}).fingerprint()


def test_an_adapter_is_refused(copied: Path) -> None:
    (copied / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "somebody/else"}))
    with pytest.raises(DamagedWeightsError, match="adapter"):
        make_encoder("dinov2", {"weights": copied})


def test_missing_folders_and_files_say_how_to_get_them(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match="dualforce weights pull dinov2"):
        make_encoder("dinov2", {"weights": tmp_path / "nowhere"})
    with pytest.raises(MissingWeightsError, match="a file; dinov2 needs the folder"):
        make_encoder("dinov2", {"weights": copied / "model.safetensors"})
    (copied / "model.safetensors").unlink()
    with pytest.raises(MissingWeightsError, match=r"no model\.safetensors or pytorch_model\.bin"):
        make_encoder("dinov2", {"weights": copied}).fingerprint()


def test_the_part_of_a_release_is_found(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["wan_vae"], tmp_path / "release" / "vae")
    (tmp_path / "release" / "model_index.json").write_text("{}")
    found = make_encoder("wan_vae", {"weights": tmp_path / "release"})
    assert found.fingerprint() == make_encoder("wan_vae", {"weights": folders["wan_vae"]}).fingerprint()


# ---------------------------------------------------------------------------------------------------------- the hub


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and an empty home."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "hub"


def test_a_pinned_commit_is_taken_from_the_cache(folders: dict[str, Path], cache: Path) -> None:
    for name, within in (("dinov2", ""), ("wan_vae", "vae")):
        place = cache / f"models--somebody--{name}" / "snapshots" / COMMIT / within
        shutil.copytree(folders[name], place)
        pinned = {"hub": f"somebody/{name}", "revision": COMMIT}
        found = make_encoder(name, pinned)
        assert found.folder == place
        assert found.fingerprint() == make_encoder(name, {"weights": folders[name]}).fingerprint()
    other = "f" * 40
    with pytest.raises(
        MissingWeightsError, match=f"dualforce weights pull dinov2 --hub somebody/dinov2 --revision {other}"
    ):
        make_encoder("dinov2", {"hub": "somebody/dinov2", "revision": other})


def test_what_was_pulled_is_taken_first(folders: dict[str, Path], cache: Path) -> None:
    pulled = Path("~/.cache/dualforce/weights/hub/somebody--vae").expanduser() / COMMIT
    for place in (pulled, cache / "models--somebody--vae" / "snapshots" / COMMIT):
        shutil.copytree(folders["wan_vae"], place / "vae")
    pinned = {"hub": "somebody/vae", "revision": COMMIT}
    assert make_encoder("wan_vae", pinned).folder == pulled / "vae"
    (pulled / "vae" / SAFE["wan_vae"]).unlink()  # a pull that broke off
    assert make_encoder("wan_vae", pinned).folder.is_relative_to(cache)


def test_no_network_is_asked(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    really = huggingface_hub.snapshot_download

    def download(hub: str, *, local_files_only: bool = False, **rest: Any) -> str:
        asked.append(local_files_only)
        return really(hub, local_files_only=True, **rest)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(MissingWeightsError, match="Nothing is downloaded for you"):
        make_encoder("dinov2", {"hub": "somebody/dinov2", "revision": COMMIT})
    assert asked
    assert all(asked)


def test_a_torn_cache_is_as_good_as_none(folders: dict[str, Path], cache: Path) -> None:
    pinned = {"hub": "somebody/dinov2", "revision": COMMIT}
    folder = cache / "models--somebody--dinov2" / "snapshots" / COMMIT
    for torn in ("model.safetensors", "config.json"):
        shutil.copytree(folders["dinov2"], folder, dirs_exist_ok=True)
        make_encoder("dinov2", pinned).load()
        (folder / torn).unlink()
        with pytest.raises(MissingWeightsError, match="dualforce weights pull dinov2 --hub"):
            make_encoder("dinov2", pinned)


def test_old_weights_and_shards_in_the_cache_are_enough_if_they_are_all_there(
    folders: dict[str, Path], cache: Path
) -> None:
    pinned = {"hub": "somebody/dinov2", "revision": COMMIT}
    folder = cache / "models--somebody--dinov2" / "snapshots" / COMMIT
    shutil.copytree(folders["dinov2"], folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    make_encoder("dinov2", pinned)
    (folder / "pytorch_model.bin").rename(folder / "model-1.safetensors")
    places = {"some": "model-1.safetensors", "more": "model-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "model-2.safetensors").touch()
    make_encoder("dinov2", pinned)
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(MissingWeightsError):
        make_encoder("dinov2", pinned)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"hub": "facebook/dinov2-base"}, "without a revision"),
        ({"hub": "facebook/dinov2-base", "revision": "main"}, "revision"),
        ({"revision": COMMIT}, "without a hub"),
        ({"hub": "../elsewhere", "revision": COMMIT}, "hub"),
        ({"hub": "https://host/dinov2", "revision": COMMIT}, "hub"),
        ({"hub": "facebook/dinov2-base", "revision": COMMIT, "weights": "folder"}, "two places"),
    ],
)
def test_a_hub_is_named_with_its_commit_and_alone(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        make_encoder("dinov2", settings)

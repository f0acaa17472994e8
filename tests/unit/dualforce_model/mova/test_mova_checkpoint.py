"""A checkpoint is held to its own settings; whatever is wrong is named by file and tensor."""

import json
import math
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from dualforce_model.mova.checkpoint import CheckpointError, MovaCheckpoint, inspect
from dualforce_model.mova.components import COMPONENTS, expected
from dualforce_model.mova.files import Problem, into
from dualforce_model.mova.verify import verify
from dualforce_model.weight_files import read_header

Make = Callable[..., Path]
NUMBERS = st.one_of(st.integers(-9, 99), st.floats(), st.text(max_size=3), st.none(), st.integers())
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "X", 3, ["F32"]]),
        "shape": st.one_of(st.lists(NUMBERS, max_size=3), NUMBERS),
        "data_offsets": st.one_of(st.lists(NUMBERS, max_size=3), NUMBERS),
    },
)
HEADERS = st.dictionaries(st.text(max_size=4), st.one_of(ENTRIES, NUMBERS), max_size=3)
TOWERS = {"video_dit": 576_928, "video_dit_2": 576_928, "audio_dit": 222_464, "dual_tower_bridge": 157_440}
ONE_FILE = "diffusion_pytorch_model.safetensors"


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    """Change the tensors of a file."""
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


def reset(path: Path, **values: Any) -> None:
    """Change fields of a JSON file; a field set to None is removed."""
    told = json.loads(path.read_text()) | values
    path.write_text(json.dumps({name: value for name, value in told.items() if value is not None}))


@pytest.mark.parametrize("shards", [1, 3])
def test_a_whole_checkpoint_works(make_checkpoint: Make, shards: int) -> None:
    report = verify(make_checkpoint(shards))
    assert report.problems == ()
    rows = {row.component: row for row in report.components}
    assert {name: rows[name].num_parameters for name in TOWERS} == TOWERS
    assert rows["video_dit"].num_files == rows["text_encoder"].num_files == shards
    assert all(row.read_s is not None and row.dtypes == {"F32": row.num_tensors} for row in rows.values())


def test_code_defaults_that_would_have_been_wrong(checkpoint: Path) -> None:
    report = verify(checkpoint, load=False)
    wrong = {(row.component, row.field): (row.code, row.checkpoint) for row in report.defaults if row.wrong}
    assert wrong["dual_tower_bridge", "interaction_strategy"] == ("shallow_focus", "full")
    assert wrong["dual_tower_bridge", "audio_fps"] == ("21.533203125", "50.0")
    assert wrong["audio_vae", "sample_rate"] == ("44100", "48000")
    assert wrong["scheduler", "extra_one_step"] == ("False", "True")
    assert "Code defaults that would have been wrong: 17 of 20" in report.text()
    assert all(row.read_s is None for row in report.components)


def expect(root: Path, file: str, subject: str, words: str) -> None:
    """One problem, at this file and tensor, in these words; and the checkpoint does not open."""
    inspection = inspect(root)
    found = [problem for problem in inspection.problems if problem.file == file and problem.subject == subject]
    assert found, [str(problem) for problem in inspection.problems]
    assert words in found[0].message
    with pytest.raises(CheckpointError, match="problems; get these files again"):
        inspection.whole()


def test_missing_tensor(make_checkpoint: Make) -> None:
    root = make_checkpoint()
    rewrite(root / "audio_dit" / ONE_FILE, lambda weights: weights.pop("blocks.1.ffn.0.weight"))
    expect(root, f"audio_dit/{ONE_FILE}", "blocks.1.ffn.0.weight", "missing, expected [128, 64]")


def test_tensor_missing_from_shards_and_index(make_checkpoint: Make) -> None:
    root = make_checkpoint(shards=3)
    index = root / "video_dit" / f"{ONE_FILE}.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    shard = weight_map.pop("head.modulation")
    reset(index, weight_map=weight_map)
    rewrite(root / "video_dit" / shard, lambda weights: weights.pop("head.modulation"))
    expect(root, f"video_dit/{index.name}", "head.modulation", "missing, expected [1, 2, 96]")


def test_surplus_tensor(make_checkpoint: Make) -> None:
    root = make_checkpoint()
    rewrite(root / "audio_dit" / ONE_FILE, lambda weights: weights.update({"blocks.9.odd": torch.zeros(2)}))
    expect(root, f"audio_dit/{ONE_FILE}", "blocks.9.odd", "no part of this model")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("video_dit_2", "patch_embedding.weight"),
        ("audio_dit", "patch_embedding.weight"),
        ("dual_tower_bridge", "audio_to_video_conditioners.2.inner.k.weight"),
        ("audio_vae", "quant_conv.weight"),
        ("video_vae", "decoder.conv_out.weight"),
    ],
)
def test_wrong_shape(make_checkpoint: Make, folder: str, name: str) -> None:
    root = make_checkpoint()
    rewrite(root / folder / ONE_FILE, lambda weights: weights.update({name: weights[name][:-1].clone()}))
    expect(root, f"{folder}/{ONE_FILE}", name, "by the settings")


def test_wrong_shape_in_the_text_encoder(make_checkpoint: Make) -> None:
    root, name = make_checkpoint(), "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"
    rewrite(
        root / "text_encoder" / "model.safetensors",
        lambda weights: weights.update({name: weights[name].T.contiguous()}),
    )
    expect(root, "text_encoder/model.safetensors", name, "shape [4, 32], expected [32, 4]")


@pytest.mark.parametrize("dtype", [torch.int8, torch.float64])
def test_wrong_dtype(make_checkpoint: Make, dtype: torch.dtype) -> None:
    root, name = make_checkpoint(), "blocks.0.ffn.0.weight"
    rewrite(root / "video_dit" / ONE_FILE, lambda weights: weights.update({name: weights[name].to(dtype)}))
    expect(root, f"video_dit/{ONE_FILE}", name, "expected F32 or F16 or BF16")


def test_dtype_other_than_declared(make_checkpoint: Make) -> None:
    root, name = make_checkpoint(), "shared.weight"
    rewrite(root / "text_encoder" / "model.safetensors", lambda weights: weights.update({name: weights[name].half()}))
    expect(root, "text_encoder/model.safetensors", name, "dtype F16, expected F32")


def test_missing_file_and_missing_shard(make_checkpoint: Make) -> None:
    root = make_checkpoint(shards=3)
    (root / "audio_vae" / ONE_FILE).unlink()
    expect(root, "audio_vae/", "", "expected one .safetensors file, or shards with one index; found none")
    shard = "diffusion_pytorch_model-00002-of-00003.safetensors"
    (root / "video_dit" / shard).unlink()
    expect(root, f"video_dit/{shard}", "", "missing; video_dit/diffusion_pytorch_model.safetensors.index.json names it")
    assert len(inspect(root).problems) == 2, "the tensors of a missing shard are not listed one by one"


def test_truncated_files(make_checkpoint: Make) -> None:
    """Cut in the data: the first tensor that is not whole is named. Cut in the header: the header is."""
    root = make_checkpoint(shards=3)
    shard = "diffusion_pytorch_model-00001-of-00003.safetensors"
    path = root / "video_dit_2" / shard
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__")
    last = max(header, key=lambda name: header[name]["data_offsets"][1])
    path.write_bytes(data[:-10])
    expect(root, f"video_dit_2/{shard}", last, "truncated: it ends at byte")
    path.write_bytes(data[:50])
    expect(root, f"video_dit_2/{shard}", "header", "50 bytes do not hold its header")
    path.write_bytes(b"")
    expect(root, f"video_dit_2/{shard}", "header", "truncated")
    path.write_bytes(data + b"more")
    expect(root, f"video_dit_2/{shard}", "", "but its tensors end at")


@pytest.mark.parametrize(
    "header",
    [b"[]", b"not json", b'{"a": 1}', b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
     b'{"a": {"dtype": "X9", "shape": [2], "data_offsets": [0, 8]}}',
     b'{"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}'],
)  # fmt: skip
def test_damaged_header(make_checkpoint: Make, header: bytes) -> None:
    root = make_checkpoint()
    path = root / "audio_dit" / ONE_FILE
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)
    expect(root, f"audio_dit/{ONE_FILE}", "header", "damaged")


@given(
    st.one_of(st.binary(max_size=200), HEADERS.map(lambda header: json.dumps(header).encode())), st.binary(max_size=40)
)
def test_no_header_however_hostile_gets_through_or_raises(header: bytes, data: bytes) -> None:
    """Whatever a header says, it is a problem or it is true of the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        problems: list[Problem] = []
        path.write_bytes(struct.pack("<Q", len(header)) + header + data)
        tensors = read_header(path, into(problems, Path(folder)))
        assert problems or sum(tensor.num_bytes for tensor in tensors) == len(data)


def test_settings_that_no_model_can_have(make_checkpoint: Make) -> None:
    root = make_checkpoint()
    reset(root / "video_vae" / "config.json", temperal_downsample=[True])
    expect(root, "video_vae/config.json", "", "no model can be built by these settings")


def test_index_that_disagrees_with_its_shards(make_checkpoint: Make) -> None:
    root = make_checkpoint(shards=3)
    index = root / "video_dit" / f"{ONE_FILE}.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    shards = sorted(set(weight_map.values()))
    moved = next(name for name, shard in weight_map.items() if shard == shards[0])
    reset(index, weight_map=weight_map | {moved: shards[1]})
    expect(root, f"video_dit/{shards[1]}", moved, "places it here, but it is not")
    reset(index, weight_map=weight_map | {moved: "../video_dit_2/" + shards[0]})
    expect(
        root, "video_dit/diffusion_pytorch_model.safetensors.index.json", "../video_dit_2/" + shards[0], "may not leave"
    )


def test_settings_are_never_guessed(make_checkpoint: Make) -> None:
    root = make_checkpoint()
    reset(root / "dual_tower_bridge" / "config.json", audio_fps=None)
    expect(root, "dual_tower_bridge/config.json", "audio_fps", "defaults are never taken")
    (root / "scheduler" / "scheduler_config.json").unlink()
    expect(root, "scheduler/scheduler_config.json", "", "missing")
    reset(root / "model_index.json", boundary_ratio=None, audio_dit=None)
    expect(root, "model_index.json", "boundary_ratio", "defaults are never taken")
    expect(root, "model_index.json", "audio_dit", "missing")


def test_settings_that_we_cannot_run_are_refused(make_checkpoint: Make) -> None:
    root = make_checkpoint()
    reset(root / "dual_tower_bridge" / "config.json", pooled_adaln=True)
    expect(root, "dual_tower_bridge/config.json", "pooled_adaln", "Input should be False")
    reset(root / "video_dit" / "config.json", has_ref_conv=True)
    expect(root, "video_dit/config.json", "", "has_ref_conv is True; only False is supported")
    reset(root / "audio_dit" / "config.json", _class_name="WanModel")
    expect(root, "audio_dit/config.json", "_class_name", "'WanModel', expected 'WanAudioModel'")


def test_components_that_contradict_each_other(make_checkpoint: Make) -> None:
    root = make_checkpoint()
    reset(root / "dual_tower_bridge" / "config.json", audio_fps=21.5, visual_layers=30)
    report = verify(root)
    words = [str(problem) for problem in report.problems]
    assert "dual_tower_bridge/config.json: audio_fps: 21.5, but audio_vae latents per second is 50.0" in words
    assert "dual_tower_bridge/config.json: visual_layers: 30, but video_dit num_layers is 4" in words
    loaded = {row.component for row in report.components if row.read_s is not None}
    assert "dual_tower_bridge" not in loaded, "what is wrong is not loaded"
    assert "video_dit" in loaded


def test_numbers_that_are_not_finite(make_checkpoint: Make) -> None:
    root, name = make_checkpoint(), "blocks.1.modulation"
    rewrite(root / "video_dit" / ONE_FILE, lambda weights: weights[name][0, 0].fill_(float("nan")))
    problems = verify(root).problems
    assert [str(problem) for problem in problems] == [
        f"video_dit/{ONE_FILE}: {name}: holds numbers that are not finite"
    ]


def test_the_release_has_as_many_parameters_as_it_should() -> None:
    """The real sizes, without memory: parameters and tensors as counted in upstream's own modules."""
    tower = {
        "freq_dim": 256, "text_dim": 4096, "eps": 1e-6, "require_clip_embedding": False,
    }  # fmt: skip
    video = tower | {
        "dim": 5120, "in_dim": 36, "out_dim": 16, "ffn_dim": 13824, "num_heads": 40, "num_layers": 40,
        "patch_size": [1, 2, 2], "require_vae_embedding": True,
    }  # fmt: skip
    audio = tower | {
        "dim": 1536, "in_dim": 128, "out_dim": 128, "ffn_dim": 8960, "num_heads": 12, "num_layers": 30,
        "patch_size": [1], "vae_type": "dac",
    }  # fmt: skip
    bridge = {
        "visual_layers": 40, "audio_layers": 30, "visual_hidden_dim": 5120, "audio_hidden_dim": 1536, "audio_fps": 50,
        "head_dim": 128, "interaction_strategy": "full", "apply_cross_rope": True,
        "apply_first_frame_bias_in_rope": False, "trainable_condition_scale": False, "pooled_adaln": False,
    }  # fmt: skip
    sound = {
        "encoder_dim": 128, "encoder_rates": [2, 3, 4, 5, 8], "decoder_dim": 2048, "decoder_rates": [8, 5, 4, 3, 2],
        "latent_dim": 128, "sample_rate": 48000, "continuous": True,
    }  # fmt: skip
    told = {"video_dit": video, "audio_dit": audio, "dual_tower_bridge": bridge, "audio_vae": sound}
    counted = {}
    for component in COMPONENTS:
        if component.folder in told:
            settings = component.settings.model_validate(told[component.folder])
            shapes = expected(component, settings, told[component.folder])
            counted[component.folder] = (round(sum(map(math.prod, shapes.values())) / 1e9, 4), len(shapes))
    assert counted == {
        "video_dit": (14.2889, 1095),
        "audio_dit": (1.4192, 825),
        "dual_tower_bridge": (2.6597, 720),
        "audio_vae": (0.3715, 224),
    }


def test_empty_folder(tmp_path: Path) -> None:
    words = [str(problem) for problem in verify(tmp_path).problems]
    assert any("model_index.json: missing" in word for word in words)
    assert "video_dit/: missing folder" in words


def test_many_problems_of_one_kind_are_counted(make_checkpoint: Make) -> None:
    root = make_checkpoint()
    reset(root / "audio_dit" / "config.json", ffn_dim=130)
    found = [problem for problem in inspect(root).problems if problem.file.startswith("audio_dit")]
    assert len(found) == 8
    assert "and 1 more tensors like it" in found[-1].message


def as_weight_norm(weights: dict[str, Tensor], gain: str, direction: str) -> dict[str, Tensor]:
    """The same convolutions, each as a gain and a direction."""
    split = dict(weights)
    for name in [name for name in weights if name.endswith(".weight")]:
        weight = split.pop(name)
        stem = name.removesuffix("weight")
        split[stem + gain] = weight.flatten(1).norm(dim=1).view(-1, *(1,) * (weight.ndim - 1))
        split[stem + direction] = 3 * weight
    return split


@pytest.mark.parametrize(
    ("gain", "direction"),
    [("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1")],
)
def test_audio_vae_with_its_weight_norm_kept(make_checkpoint: Make, gain: str, direction: str) -> None:
    """Whether the release folded its weight norm in is not known: both spellings load, to the same numbers."""
    root, latents = make_checkpoint(), torch.randn(1, 128, 3, generator=torch.Generator().manual_seed(0))
    cpu, path = torch.device("cpu"), root / "audio_vae" / ONE_FILE
    with torch.no_grad():
        plain = MovaCheckpoint.open(root).load("audio_vae", torch.float32, cpu).decode(latents)
        save_file(as_weight_norm(load_file(path), gain, direction), path)
        split = MovaCheckpoint.open(root).load("audio_vae", torch.float32, cpu).decode(latents)
    torch.testing.assert_close(split, plain, atol=1e-6, rtol=1e-5)


def test_half_precision_keeps_what_must_stay_exact(checkpoint: Path) -> None:
    tower = MovaCheckpoint.open(checkpoint).load("video_dit", torch.bfloat16, torch.device("cpu"))
    kinds = {name: parameter.dtype for name, parameter in tower.named_parameters()}
    assert kinds["blocks.0.attn1.to_q.weight"] == torch.bfloat16
    assert kinds["condition_embedder.time_embedder.linear_1.weight"] == torch.float32
    assert kinds["blocks.0.scale_shift_table"] == torch.float32
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in tower.parameters())


MEASURE = """
import resource, sys
from pathlib import Path
from dualforce_model.mova.verify import verify
verify(Path(sys.argv[1]))  # everything imported, every code path warm
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
report = verify(Path(sys.argv[2]))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert not report.problems, report.text()
print((after - before) * 1024, sum(row.num_bytes for row in report.components))
"""


def widen(root: Path, width: int) -> None:
    """Both video towers with feed-forward nets so wide that they are most of the checkpoint."""
    for folder in ("video_dit", "video_dit_2"):
        reset(root / folder / "config.json", ffn_dim=width)
        weights = load_file(root / folder / ONE_FILE)
        for block in range(4):
            ffn = f"blocks.{block}.ffn"
            weights |= {f"{ffn}.0.weight": torch.zeros(width, 96), f"{ffn}.0.bias": torch.zeros(width)}
            weights[f"{ffn}.2.weight"] = torch.zeros(96, width)
        save_file(weights, root / folder / ONE_FILE)


@pytest.mark.slow
def test_memory_is_one_component_at_a_time(make_checkpoint: Make, checkpoint: Path) -> None:
    """Two experts of 63 MB: checking and loading both takes less than one of them as stored."""
    root = make_checkpoint()
    widen(root, 20_000)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(checkpoint), str(root)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    grown, stored = map(int, done.stdout.split())
    assert stored > 125e6
    assert grown < 0.45 * stored, f"{grown / 1e6:.0f} MB for {stored / 1e6:.0f} MB of weights"

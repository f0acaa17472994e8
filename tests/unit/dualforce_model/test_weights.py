"""Warm start of the video tower: the layers it takes do what they did in Wan; what does not fit is named."""

import json
import pickle
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from dualforce_model.layers.masks import StepMask
from dualforce_model.model import PRESETS
from dualforce_model.towers import VideoTower, VideoTowerConfig
from dualforce_model.weight_files import WeightsError
from dualforce_model.weights import WarmStart, choose_layers, plan_start, start_video_tower
from tests.pickled import save_pickled, vouched

SIZES = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "text_dim": 10,
    "freq_dim": 32,
    "ffn_dim": 40,
}
SOURCE_LAYERS, LAYERS = 5, 3
TOWER = VideoTowerConfig(
    latent_channels=4, heads=2, head_dim=24, layers=LAYERS, ffn_dim=40, text_dim=10, freq_dim=32, patch_px=(2, 2)
)
# diffusers' names -> the original ones, in this order
ORIGINAL = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "attn1.to_out.0": "self_attn.o",
    "attn1.to_": "self_attn.",
    "attn1.": "self_attn.",
    "attn2.to_out.0": "cross_attn.o",
    "attn2.to_": "cross_attn.",
    "attn2.": "cross_attn.",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "norm2": "norm3",
    "proj_out": "head.head",
}


class Everything(StepMask):
    """No mask: every step sees every step."""

    def sees(self, query: int, key: int) -> bool:
        return True


def wan(**changes: Any) -> WanTransformer3DModel:
    torch.manual_seed(0)
    sizes = {"in_channels": 4, "out_channels": 4, "num_layers": SOURCE_LAYERS, **SIZES, **changes}
    model = WanTransformer3DModel(patch_size=(1, 2, 2), **sizes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def tower(config: VideoTowerConfig = TOWER) -> VideoTower:
    torch.manual_seed(1)
    return VideoTower.build(config).eval()


def original(model: WanTransformer3DModel) -> dict[str, torch.Tensor]:
    renamed = {}
    for name, tensor in model.state_dict().items():
        new = "head.modulation" if name == "scale_shift_table" else name.replace("scale_shift_table", "modulation")
        for theirs, ours in ORIGINAL.items():
            new = new.replace(theirs, ours)
        renamed[new] = tensor.clone()
    return renamed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The source as diffusers saves it."""
    wan().save_pretrained(tmp_path / "source")
    return tmp_path / "source"


def hidden_of_wan(
    model: WanTransformer3DModel, video: torch.Tensor, sigma: float, text: torch.Tensor
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Tokens after each layer [b, s*n, d], and the output [b, s, c, h, w]."""
    hidden: list[torch.Tensor] = []
    hooks = [block.register_forward_hook(lambda module, given, out: hidden.append(out)) for block in model.blocks]
    with torch.no_grad():
        out = model(video.transpose(1, 2), torch.full((video.shape[0],), sigma * 1000), text, return_dict=False)[0]
    for hook in hooks:
        hook.remove()
    return hidden, out.transpose(1, 2)


def hidden_of_ours(
    ours: VideoTower, video: torch.Tensor, sigma: float, text: torch.Tensor
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The same of a tower that sees no reference and has no mask."""
    steps = tuple(range(video.shape[1]))
    levels, no = torch.full(video.shape[:2], sigma), torch.zeros(video.shape[:2], dtype=torch.bool)
    hidden = []
    with torch.no_grad():
        mask = Everything(steps, steps, len(steps))
        state = ours.start(video, torch.zeros_like(video[:, 0]), no, levels, mask, text=text)
        for layer in range(len(ours.blocks)):
            ours.advance(layer, state)
            hidden.append(state.x.flatten(1, 2))
        return hidden, ours.finish(state)


def window() -> tuple[torch.Tensor, float, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(2, 4, 4, 4, 6, generator=generator), 0.7, torch.randn(2, 5, 10, generator=generator)


def test_the_first_layers_do_what_they_did_in_the_source(folder: Path) -> None:
    ours = tower()
    started = start_video_tower(ours, WarmStart(path=str(folder), layers="first"))
    theirs, _ = hidden_of_wan(WanTransformer3DModel.from_pretrained(folder).eval(), *window())
    mine, _ = hidden_of_ours(ours, *window())
    for layer in range(LAYERS):
        torch.testing.assert_close(mine[layer], theirs[layer], atol=2e-5, rtol=1e-5)
    assert (started.layers, started.source_layers, started.new_channels) == ((0, 1, 2), 5, 8)
    assert (started.left_out, started.fresh, started.unconfirmed) == ({}, {}, ())
    assert list(started.files) == ["diffusion_pytorch_model.safetensors"]


@pytest.mark.parametrize(("layers", "taken"), [("even", (0, 2, 4)), ((1, 2, 4), (1, 2, 4))])
def test_chosen_layers_make_the_source_without_the_others(folder: Path, layers: Any, taken: tuple[int, ...]) -> None:
    ours = tower()
    assert start_video_tower(ours, WarmStart(path=str(folder), layers=layers)).layers == taken
    source = WanTransformer3DModel.from_pretrained(folder).eval()
    source.blocks = torch.nn.ModuleList(source.blocks[layer] for layer in taken)
    (_, theirs), (_, mine) = hidden_of_wan(source, *window()), hidden_of_ours(ours, *window())
    torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-5)


def test_new_input_channels_start_at_zero(folder: Path) -> None:
    ours = tower()
    start_video_tower(ours, WarmStart(path=str(folder)))
    weight = ours.patch_embedding.weight
    assert weight.shape[1] == 4 + 4 + 4
    assert weight[:, :4].all()
    assert not weight[:, 4:].any()


def as_original_file(folder: Path) -> Path:
    path = folder / "original.safetensors"
    save_file(original(wan()), path)
    return path


def as_comfy_file(folder: Path) -> Path:
    path = folder / "prefixed.safetensors"
    save_file({f"model.diffusion_model.{name}": tensor for name, tensor in original(wan()).items()}, path)
    return path


def as_pickle(folder: Path) -> Path:
    path = folder / "original.pth"
    save_pickled(original(wan()), path)
    return path


def as_half(folder: Path) -> Path:
    path = folder / "half"
    wan().half().save_pretrained(path)
    return path


def as_shards(folder: Path) -> Path:
    wan().save_pretrained(folder / "shards", max_shard_size="40KB")
    assert len(list((folder / "shards").glob("*.safetensors"))) > 1
    return folder / "shards"


def as_pipeline(folder: Path) -> Path:
    wan().save_pretrained(folder / "pipeline" / "transformer")
    return folder / "pipeline"


@pytest.mark.parametrize("saved", [as_original_file, as_comfy_file, as_pickle, as_half, as_shards, as_pipeline])
def test_every_form_gives_the_same_weights(saved: Any, folder: Path, tmp_path: Path) -> None:
    expected, ours = tower(), tower()
    start_video_tower(expected, WarmStart(path=str(folder)))
    started = start_video_tower(ours, WarmStart(path=str(saved(tmp_path))))
    tolerance = {"atol": 1e-3, "rtol": 1e-3} if saved is as_half else {"atol": 0.0, "rtol": 0.0}
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, expected.state_dict()[name], msg=name, **tolerance)
    assert started.layout == ("original" if saved in (as_original_file, as_comfy_file, as_pickle) else "diffusers")
    assert bool(started.unconfirmed) == (started.layout == "original")  # no config.json beside them


def test_the_original_config_beside_the_weights_is_read(tmp_path: Path) -> None:
    save_file(original(wan()), tmp_path / "diffusion_pytorch_model.safetensors")
    settings = {"model_type": "t2v", "dim": 48, "num_heads": 2, "num_layers": 5, "eps": 1e-6, "in_dim": 4}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    started = start_video_tower(tower(), WarmStart(path=str(tmp_path)))
    assert started.unconfirmed == ("patch_size", "qk_norm", "cross_attn_norm")
    (tmp_path / "config.json").write_text(json.dumps({**settings, "num_heads": 4}))
    with pytest.raises(WeightsError, match=r"config\.json: num_attention_heads is 4, the video tower has 2"):
        start_video_tower(tower(), WarmStart(path=str(tmp_path)))
    (tmp_path / "config.json").write_text(json.dumps({**settings, "num_layers": 7}))
    with pytest.raises(WeightsError, match="num_layers is 7, the weights have 5 layers"):
        start_video_tower(tower(), WarmStart(path=str(tmp_path)))


def test_a_tower_without_text_leaves_only_text_out(folder: Path) -> None:
    ours = tower(TOWER.model_copy(update={"text_dim": 0}))
    started = start_video_tower(ours, WarmStart(path=str(folder)))
    assert list(started.left_out) == ["text attention"]
    assert "blocks.4.attn2.to_q.weight" in started.left_out["text attention"]
    assert "blocks.0.norm2.bias" in started.left_out["text attention"]
    assert "left out: text attention" in started.text()


def test_an_image_to_video_checkpoint_leaves_only_its_image_attention_out(tmp_path: Path) -> None:
    source = wan(in_channels=12, image_dim=6, added_kv_proj_dim=48)
    source.save_pretrained(tmp_path)
    ours = tower()
    started = start_video_tower(ours, WarmStart(path=str(tmp_path)))
    assert list(started.left_out) == ["image attention"]
    assert started.new_channels == 0
    assert torch.equal(ours.patch_embedding.weight, source.patch_embedding.weight)


def test_image_attention_of_the_tower_alone_stays_as_initialised(folder: Path) -> None:
    sizes = {**SIZES, "in_channels": 12, "out_channels": 4, "num_layers": LAYERS}
    ours = VideoTower((1, 2, 2), image_dim=6, added_kv_proj_dim=48, **sizes)
    before = ours.blocks[0].attn2.add_k_proj.weight.clone()
    started = start_video_tower(ours, WarmStart(path=str(folder)))
    assert list(started.fresh) == ["image attention"]
    assert torch.equal(ours.blocks[0].attn2.add_k_proj.weight, before)


def damaged(folder: Path, **changes: torch.Tensor | None) -> Path:
    """The source with tensors replaced, added (a new name) or taken away (None)."""
    state: dict[str, torch.Tensor | None] = {**wan().state_dict(), **changes}
    path = folder / "damaged.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items() if tensor is not None}, path)
    return path


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"blocks.2.attn1.to_q.weight": None}, r"1 missing: blocks\.2\.attn1\.to_q\.weight"),
        ({"blocks.0.attn9.to_q.weight": torch.zeros(2)}, r"1 unknown: blocks\.0\.attn9\.to_q\.weight"),
        ({"proj_out.bias": torch.zeros(3)}, r"1 misshapen: proj_out\.bias is \[3\], expected \[16\]"),
        (
            {"patch_embedding.weight": torch.zeros(48, 5, 1, 2, 2)},
            r"patch_embedding\.weight is \[48, 5, 1, 2, 2\], expected \[48, 12, 1, 2, 2\] or \[48, 4, 1, 2, 2\]",
        ),
        ({"proj_out.bias": torch.full((16,), float("nan"))}, r"proj_out\.bias holds NaN"),
        ({"proj_out.bias": torch.zeros(16, dtype=torch.int8)}, r"proj_out\.bias is torch\.int8"),
        ({"blocks.9.norm2.bias": torch.zeros(48)}, r"no layer 5, 6, 7, 8 of 10"),
        ({"blocks.99999999.norm2.bias": torch.zeros(48)}, r"names a layer 99999999 and has \d+ tensors in all"),
        ({f"blocks.{'9' * 5000}.norm2.bias": torch.zeros(48)}, r"1 unknown: blocks\.9999"),
        ({"blocks.00.norm2.bias": torch.zeros(48)}, r"1 unknown: blocks\.00\.norm2\.bias"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, torch.Tensor | None], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=complaint) as raised:
        start_video_tower(tower(), WarmStart(path=str(damaged(tmp_path, **changes))))
    assert "damaged.safetensors" in str(raised.value)


def test_part_of_a_part_is_missing_not_left_out(tmp_path: Path) -> None:
    path = damaged(tmp_path, **{"blocks.0.attn2.to_q.weight": None})
    with pytest.raises(WeightsError, match=r"1 missing: blocks\.0\.attn2\.to_q\.weight"):
        start_video_tower(tower(), WarmStart(path=str(path), layers="first"))


def test_damaged_files_are_named(folder: Path, tmp_path: Path) -> None:
    weights = folder / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(WeightsError, match=r"diffusion_pytorch_model\.safetensors: not readable as safetensors"):
        start_video_tower(tower(), WarmStart(path=str(folder)))
    shards = as_shards(tmp_path)
    last = sorted(shards.glob("*.safetensors"))[-1]
    last.unlink()
    with pytest.raises(WeightsError, match=f"{last.name} is missing"):
        start_video_tower(tower(), WarmStart(path=str(shards)))
    index = shards / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(WeightsError, match="not a file beside it"):
        start_video_tower(tower(), WarmStart(path=str(shards)))
    index.write_text("{")
    with pytest.raises(WeightsError, match="not an index of shards"):
        start_video_tower(tower(), WarmStart(path=str(shards)))


@pytest.mark.parametrize(
    "text",
    [
        '{"weight_map": {"a": 5, "b": "c.safetensors"}}',
        '{"weight_map": {"a": null}}',
        '{"weight_map": {"a": []}}',
        '{"weight_map": [1]}',
        '{"weight_map": ' + "[" * 100_000,
        '{"weight_map": ' + "9" * 5000 + "}",
        "[]",
    ],
    ids=lambda text: text[:40],
)
def test_an_index_names_files_and_nothing_else(text: str, tmp_path: Path) -> None:
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(text)
    with pytest.raises(WeightsError, match=r"index\.json: (weight_map does not name a file|not an index of shards)"):
        start_video_tower(tower(), WarmStart(path=str(tmp_path)))


def test_settings_nested_without_end_are_named(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(WeightsError, match=r"config\.json: not readable as settings"):
        start_video_tower(tower(), WarmStart(path=str(folder)))


@pytest.mark.parametrize("odd", [torch.zeros(16).to_sparse(), torch.zeros(16, device="meta")], ids=["sparse", "meta"])
def test_tensors_without_plain_numbers_are_named(odd: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "odd.pth"
    save_pickled({**wan().state_dict(), "proj_out.bias": odd}, path)
    with pytest.raises(WeightsError, match=r"odd\.pth: proj_out\.bias is a torch\.\w+ tensor on \w+, expected plain"):
        start_video_tower(tower(), WarmStart(path=str(path)))


def test_a_checkpoint_without_layers_says_so(tmp_path: Path) -> None:
    save_file({"decoder.attn1.to_q.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"no layer, blocks\.0 and so on, .* decoder\.attn1\.to_q\.weight"):
        start_video_tower(tower(), WarmStart(path=str(tmp_path)))


class Code:
    """Unpickling it would run something."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


def test_a_pickle_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_pickled({"patch_embedding.weight": Code()}, tmp_path / "evil.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps(Code()))
    vouched(tmp_path / "old.pth")
    save_pickled({"step": 3}, tmp_path / "more.pth")
    for name, complaint in (("evil", "tensors alone"), ("old", "tensors alone"), ("more", "more than named tensors")):
        with pytest.raises(WeightsError, match=complaint) as raised:
            start_video_tower(tower(), WarmStart(path=str(tmp_path / f"{name}.pth")))
        assert "weights_only" not in "".join(traceback.format_exception(raised.value))  # torch says how to run it
    assert not (tmp_path / "ran").exists()


def test_a_path_without_weights_says_what_it_looked_for(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file or folder"):
        start_video_tower(tower(), WarmStart(path=str(tmp_path / "nowhere")))
    with pytest.raises(WeightsError, match="no other weights"):
        start_video_tower(tower(), WarmStart(path=str(tmp_path)))
    for name in ("a", "b"):
        save_file({"x": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(WeightsError, match=r"a\.safetensors, b\.safetensors, and no .* name one file"):
        start_video_tower(tower(), WarmStart(path=str(tmp_path)))
    with pytest.raises(WeightsError, match="no Wan transformer"):
        start_video_tower(tower(), WarmStart(path=str(tmp_path / "a.safetensors")))


@given(st.data())
def test_even_layers_rise_from_the_first_to_the_last(data: st.DataObject) -> None:
    source = data.draw(st.integers(1, 60))
    target = data.draw(st.integers(1, source))
    chosen = choose_layers("even", source, target)
    assert len(chosen) == len(set(chosen)) == target
    assert list(chosen) == sorted(chosen)
    assert chosen[0] == 0
    assert chosen[-1] == source - 1 or target == 1


def test_layers_that_are_not_there_are_refused() -> None:
    assert choose_layers((1, 4), 5, 2) == (1, 4)
    for wrong in ((0,), (0, 5), (3, 1), (2, 2)):
        with pytest.raises(WeightsError, match="expected 2 rising numbers under 5"):
            choose_layers(wrong, 5, 2)
    with pytest.raises(WeightsError, match="tower has 6 layers, the checkpoint 5"):
        choose_layers("even", 5, 6)


def test_wan_1_3b_fits_the_base_preset() -> None:
    """At full size, on the meta device: every tensor of 20 layers has its place."""
    with torch.device("meta"):
        source = WanTransformer3DModel(
            (1, 2, 2), num_attention_heads=12, ffn_dim=8960, num_layers=30, in_channels=16, out_channels=16
        )
        ours = VideoTower.build(PRESETS["base"].video)
    plan = plan_start({name: tuple(tensor.shape) for name, tensor in source.state_dict().items()}, ours, "even")
    assert set(plan.taken) == set(ours.state_dict())
    assert (plan.source_layers, len(plan.layers), plan.new_channels) == (30, 20, 20)
    assert (plan.layers[0], plan.layers[-1]) == (0, 29)
    assert (dict(plan.left_out), dict(plan.fresh)) == ({}, {})

"""Both towers of MOVA, and our own video tower with MOVA's weights, against upstream's numbers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dualforce_model.layers.cache import StepCache
from dualforce_model.layers.masks import StepMask
from dualforce_model.mova.names import tower_name
from dualforce_model.mova.settings import AudioTowerSettings, TowerSettings
from dualforce_model.mova.towers import ExactTimesteps, MovaTower
from dualforce_model.towers import VideoTower

TIGHT = {0.02: 5e-6, 0.08: 2e-5}  # with the float64 sinusoid
STOCK = {0.02: 5e-6, 0.08: 3e-4}  # with diffusers' float32 sinusoid


@pytest.fixture(scope="module")
def video(golden: Callable[[str], Any]) -> Any:
    return golden("video_dit")


@pytest.fixture(scope="module")
def audio(golden: Callable[[str], Any]) -> Any:
    return golden("audio_dit")


@pytest.fixture(scope="module")
def build(fill: Callable[..., Any], name_weights: Callable[..., dict[str, Tensor]]) -> Callable[..., Any]:
    """Tower of a golden variant, by the maker of its class."""

    def make(numbers: Any, variant: str, std: float, maker: Callable[[dict[str, Any]], Any]) -> Any:
        facts = numbers.facts["variants"][variant]
        weights = name_weights(facts["params"], std, facts["weight_checks"][f"std{std}"])
        return fill(maker(facts["config"]), weights, tower_name)

    return make


def mova_video(config: dict[str, Any]) -> MovaTower:
    return MovaTower.of_video(TowerSettings.model_validate(config))


def mova_audio(config: dict[str, Any]) -> MovaTower:
    return MovaTower.of_audio(AudioTowerSettings.model_validate(config))


def our_video(config: dict[str, Any]) -> VideoTower:
    """The project's own causal tower at the sizes of a MOVA tower."""
    tower = VideoTower(
        patch_size=tuple(config["patch_size"]),
        num_attention_heads=config["num_heads"],
        attention_head_dim=config["dim"] // config["num_heads"],
        in_channels=config["in_dim"],
        out_channels=config["out_dim"],
        text_dim=config["text_dim"],
        freq_dim=config["freq_dim"],
        ffn_dim=config["ffn_dim"],
        num_layers=config["num_layers"],
    )
    tower.condition_embedder.timesteps_proj = ExactTimesteps(config["freq_dim"])
    return tower


def run(tower: MovaTower, x: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
    """One pass through a MOVA tower alone."""
    stream = tower.enter(x, timestep, text)
    for layer in range(len(tower.blocks)):
        tower.advance(layer, stream)
    return tower.leave(stream)


class BlockMask(StepMask):
    """Steps in blocks of `block`: a step sees its own block and all before it. block 0: every step sees all."""

    block = 0

    def sees(self, query: int, key: int) -> bool:
        return not self.block or key // self.block <= query // self.block


def block_mask(num_steps: int, block: int) -> StepMask:
    """Mask of upstream's golden runs, which know neither a sink nor a window."""
    kind = type(f"BlockMask{block}", (BlockMask,), {"block": block})
    steps = tuple(range(num_steps))
    return kind(steps, steps, num_steps)


def run_ours(tower: VideoTower, x: Tensor, timestep: Tensor, text: Tensor, mask: StepMask, **cached: Any) -> Tensor:
    """One pass of our tower over all 36 channels as they are; timesteps [b, steps]. Returns [b, c, steps, h, w]."""
    _, rows, columns = tower.config.patch_size
    tokens = tower.patch_embedding(x).flatten(3).permute(0, 2, 3, 1).contiguous()
    grid = (x.shape[3] // rows, x.shape[4] // columns)
    state = tower.begin(
        tokens, timestep / 1000, grid, mask, cached.get("cache"), cached.get("commit", False), text
    )  # fmt: skip
    for layer in range(len(tower.blocks)):
        tower.advance(layer, state)
    return tower.finish(state).transpose(1, 2)


@pytest.mark.parametrize(("variant", "std"), [("small", 0.08), ("hd128", 0.02), ("hd128", 0.08)])
def test_mova_video_tower(video: Any, build: Callable[..., Any], variant: str, std: float) -> None:
    tower = build(video, variant, std, mova_video)
    x, text = video[f"{variant}/in.x"], video[f"{variant}/in.context"]
    out = run(tower, x[:1], torch.tensor([873.25]), text[:1])
    video.close(out, f"{variant}/std{std}/out.t873.25", TIGHT[std])
    both = run(tower, x, torch.tensor([900.0, 300.0]), text)
    video.close(both, f"{variant}/std{std}/out.batch2_t900_t300", TIGHT[std])


def test_mova_video_tower_at_both_ends(video: Any, build: Callable[..., Any]) -> None:
    tower = build(video, "hd128", 0.08, mova_video)
    x, text = video["hd128/in.x"][:1], video["hd128/in.context"][:1]
    for timestep in (0, 1, 500, 1000):
        out = run(tower, x, torch.tensor([float(timestep)]), text)
        video.close(out, f"hd128/std0.08/out.t{timestep}", TIGHT[0.08])


def test_stock_sinusoid_stays_within_its_own_tolerance(video: Any, build: Callable[..., Any]) -> None:
    """diffusers' class as it comes: the same tower, 7e-5 away for the float32 sinusoid alone."""
    from diffusers.models.embeddings import Timesteps

    tower = build(video, "small", 0.08, mova_video)
    tower.condition_embedder.timesteps_proj = Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0)
    out = tower(video["small/in.x"][:1], torch.tensor([873.25]), video["small/in.context"][:1]).sample
    video.close(out, "small/std0.08/out.t873.25", STOCK[0.08])


def test_video_tower_from_the_inside(video: Any, build: Callable[..., Any]) -> None:
    """Every part on the way, so that a wrong one is named; these catch what the outputs barely show."""
    tower = build(video, "hd128", 0.08, mova_video)
    stream = tower.enter(video["hd128/in.x"][:1], torch.tensor([873.25]), video["hd128/in.context"][:1])
    kept: dict[str, Tensor] = {}
    block = tower.blocks[0]
    block.attn1.register_forward_hook(lambda module, args, out: kept.update(self_attn_out=out))
    block.attn2.register_forward_hook(lambda module, args, out: kept.update(cross_attn_out=out))
    mid = "hd128/std0.08/mid.t873.25"
    sinusoid = tower.condition_embedder.timesteps_proj(torch.tensor([873.25]))
    video.close(sinusoid, f"{mid}.t_sinusoid", 1e-6)
    video.close(stream.embedded, f"{mid}.t_embed", 5e-6)
    video.close(stream.modulation, f"{mid}.t_mod", 2e-5)
    video.close(stream.text, f"{mid}.context_emb", 5e-6)
    video.close(stream.x, f"{mid}.tokens", 5e-6)
    tower.advance(0, stream)
    video.close(kept["self_attn_out"], f"{mid}.block0.self_attn_out", 5e-6)
    video.close(kept["cross_attn_out"], f"{mid}.block0.cross_attn_out", 5e-6)
    video.close(stream.x, f"{mid}.block0.out", 5e-6)
    tower.advance(1, stream)
    video.close(stream.x, f"{mid}.block1.out", 1e-5)  # 5.3e-6 on some processors, 4e-6 on others


def test_rotary_tables(video: Any, audio: Any, build: Callable[..., Any]) -> None:
    tower = build(video, "small", 0.08, mova_video)
    cos, sin = tower.rope(video["small/in.x"])
    video.close(cos[0, :, 0, ::2], "small/rope.cos", 1e-6)
    video.close(sin[0, :, 0, ::2], "small/rope.sin", 1e-6)
    ours = our_video(video.facts["variants"]["small"]["config"]).places(tuple(range(6)), (3, 4), torch.device("cpu"))
    video.close(ours.turns.real, "small/rope.cos", 1e-6)
    video.close(ours.turns.imag, "small/rope.sin", 1e-6)
    line = mova_audio(audio.facts["variants"]["hd128"]["config"]).rope(audio["hd128/in.x"][..., None, None])
    audio.close(line[0][0, :, 0, ::2], "hd128/rope_dac.cos", 1e-6)
    audio.close(line[1][0, :, 0, ::2], "hd128/rope_dac.sin", 1e-6)


@pytest.mark.parametrize(("variant", "std"), [("small", 0.08), ("hd128", 0.02), ("hd128", 0.08)])
def test_mova_audio_tower(audio: Any, build: Callable[..., Any], variant: str, std: float) -> None:
    tower = build(audio, variant, std, mova_audio)
    x, text = audio[f"{variant}/in.x"][..., None, None], audio[f"{variant}/in.context"]
    out = run(tower, x, audio[f"{variant}/in.t"], text)[..., 0, 0]
    audio.close(out, f"{variant}/std{std}/out.batch2", TIGHT[std])
    if variant == "hd128":
        for timestep in (0, 1000):
            one = run(tower, x[:1], torch.tensor([float(timestep)]), text[:1])[..., 0, 0]
            audio.close(one, f"hd128/std{std}/out.t{timestep}", TIGHT[std])


@pytest.mark.parametrize(("variant", "std"), [("small", 0.08), ("hd128", 0.02), ("hd128", 0.08)])
def test_our_video_tower_is_the_same_function(video: Any, build: Callable[..., Any], variant: str, std: float) -> None:
    """Without causality our tower is upstream's: one level for all, and one per latent frame."""
    tower = build(video, variant, std, our_video)
    x, text = video[f"{variant}/in.x"], video[f"{variant}/in.context"]
    everything = block_mask(x.shape[2], 0)
    one = run_ours(tower, x[:1], torch.full((1, x.shape[2]), 873.25), text[:1], everything)
    video.close(one, f"{variant}/std{std}/out.t873.25", TIGHT[std])
    per_frame = run_ours(tower, x, video[f"{variant}/in.t_frame"], text, everything)
    video.close(per_frame, f"{variant}/std{std}/out.per_frame", TIGHT[std])


@pytest.mark.parametrize("block", [1, 2, 3])
def test_our_video_tower_in_blocks(video: Any, build: Callable[..., Any], block: int) -> None:
    tower = build(video, "small", 0.08, our_video)
    x, text, levels = (video[f"small/in.{name}"] for name in ("x", "context", "t_frame"))
    out = run_ours(tower, x, levels, text, block_mask(6, block))
    video.close(out, f"small/std0.08/out.per_frame_causal_block{block}", TIGHT[0.08])


@pytest.mark.parametrize(("variant", "chunks"), [("small", (1,) * 6), ("hd128", (1, 1, 1))])
def test_our_video_tower_through_its_cache(
    video: Any, build: Callable[..., Any], variant: str, chunks: tuple[int, ...]
) -> None:
    """Step after step through the key-value cache: the numbers of upstream's blocks under a causal mask."""
    tower = build(video, variant, 0.08, our_video)
    x, text, levels = (video[f"{variant}/in.{name}"] for name in ("x", "context", "t_frame"))
    cache = StepCache(batch=2, window=sum(chunks))
    parts = []
    for length in chunks:
        now = slice(cache.length, cache.length + length)
        parts.append(
            run_ours(tower, x[:, :, now], levels[:, now], text, cache.mask(length), cache=cache, commit=True)
        )  # fmt: skip
        cache.length += length
    video.close(torch.cat(parts, dim=2), f"{variant}/std0.08/out.per_frame_causal_block1", TIGHT[0.08])


def test_bfloat16_lies_close(video: Any, build: Callable[..., Any]) -> None:
    tower = build(video, "small", 0.08, mova_video).to(torch.bfloat16)
    for module in (tower.condition_embedder.time_embedder,):
        module.float()
    out = run(tower, video["small/in.x"][:1], torch.tensor([873.25]), video["small/in.context"][:1]).float()
    wanted = video["small/std0.08/out.t873.25"]
    assert (out - wanted).norm() / wanted.norm() < 2e-2

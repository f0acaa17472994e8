"""How a step is carried out: the choices, and that none of them changes what is computed."""

from typing import Any

import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName

from dualforce_model.audio import AudioConfig
from dualforce_model.batch import TalkingHeadBatch
from dualforce_model.bridge import BandProcessor, BridgeConfig, Exchange
from dualforce_model.config import ConfigError
from dualforce_model.execution import Execution, choose_kernel, compile_blocks
from dualforce_model.layers.attention import StepAttnProcessor, StepBlock
from dualforce_model.model import DualForce, ModelConfig, Velocities
from dualforce_model.towers import StructureTowerConfig, VideoTowerConfig

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SIZES: dict[str, Any] = {"heads": 2, "head_dim": 32, "layers": 2, "ffn_dim": 40, "freq_dim": 32}
CONFIG = ModelConfig(
    video=VideoTowerConfig(patch_px=(2, 2), latent_channels=4, **SIZES),
    structure=StructureTowerConfig(entries=5, **SIZES),
    bridge=BridgeConfig(depth=2, condition_dim=16),
    audio=AudioConfig(features=6, layers=2, slot_dim=8, context_dim=16),
    window_steps=3,
)


SCOPES = ["step", "causal"]


def make_model(scope: str = "step") -> DualForce:
    torch.manual_seed(0)
    bridge = BridgeConfig.model_validate({**CONFIG.bridge.model_dump(), "scope": scope})
    model = DualForce(CONFIG.model_copy(update={"bridge": bridge}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def run(model: DualForce, device: torch.device = CPU) -> Velocities:
    fake = TalkingHeadBatch.fake(CONFIG, 2, num_steps=9, height=12, width=12).to(device)
    sigma = torch.rand(2, 9, generator=torch.Generator().manual_seed(1)).to(device)
    out: Velocities = model(fake.video, fake.structure, fake.audio, fake.reference, sigma, sigma, fake.positions)
    return out


def gradients(model: DualForce, device: torch.device = CPU) -> dict[str, torch.Tensor]:
    out = run(model, device)
    assert out.structure is not None
    (out.video.square().sum() + out.structure.square().sum()).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize(
    ("asked", "device", "decided"),
    [
        ({}, CPU, ("native", "off")),
        ({}, CUDA, ("flex", "on")),
        ({"compile": "off"}, CUDA, ("native", "off")),
        ({"compile": "on"}, CPU, ("native", "on")),
        ({"attention": "native"}, CUDA, ("native", "off")),
        ({"attention": "flex"}, CUDA, ("flex", "on")),
    ],
)
def test_auto_is_decided_by_the_device(asked: dict[str, Any], device: torch.device, decided: tuple[str, str]) -> None:
    found = Execution(**asked).on(device)
    assert (found.attention, found.compile) == decided


def test_flex_does_not_train_on_the_cpu() -> None:
    with pytest.raises(ConfigError, match="set it to auto or native"):
        Execution(attention="flex").on(CPU)


def test_flex_is_never_run_uncompiled() -> None:
    with pytest.raises(ValueError, match="set compile to auto"):
        Execution(attention="flex", compile="off")


@pytest.mark.parametrize(("scope", "bridge_sites"), [("step", 0), ("causal", 4)])
def test_all_attention_under_a_mask_and_no_other_changes_its_kernel(scope: str, bridge_sites: int) -> None:
    model = make_model(scope)
    choose_kernel(model, AttentionBackendName.FLEX)
    processors = [module.processor for module in model.modules() if hasattr(module, "processor")]
    chosen = [type(one) for one in processors if getattr(one, "_attention_backend", None) == AttentionBackendName.FLEX]
    assert chosen.count(StepAttnProcessor) == 4
    assert chosen.count(BandProcessor) == bridge_sites
    assert len(chosen) == 4 + bridge_sites
    assert len(processors) > len(chosen)


@pytest.mark.parametrize(("scope", "exchanges"), [("step", 0), ("causal", 2)])
def test_all_that_may_be_under_flex_is_compiled(scope: str, exchanges: int) -> None:
    """Compiling is lazy: nothing is generated before a first call."""
    model = make_model(scope)
    assert Execution(compile="on").prepare(model, CPU).compile == "on"
    compiled = [type(module) for module in model.modules() if module._compiled_call_impl is not None]
    assert compiled.count(StepBlock) == 4
    assert compiled.count(Exchange) == exchanges
    assert len(compiled) == 4 + exchanges


@pytest.mark.parametrize("scope", SCOPES)
def test_recomputing_changes_no_gradient(scope: str) -> None:
    plain = gradients(make_model(scope))
    model = make_model(scope)
    assert Execution(recompute=True).prepare(model, CPU).recompute
    assert model.video.gradient_checkpointing
    for name, grad in gradients(model).items():
        torch.testing.assert_close(grad, plain[name], msg=name)


@pytest.mark.slow  # generates code: half a minute
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")
@pytest.mark.parametrize("scope", SCOPES)
def test_compiled_flex_computes_the_same_without_a_break(scope: str) -> None:
    """On the CPU forwards only; what CUDA compiles is the same graph."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = make_model(scope).requires_grad_(False)
    wanted = run(model)
    choose_kernel(model, AttentionBackendName.FLEX)
    compile_blocks(model)
    found = run(model)
    torch.testing.assert_close(found.video, wanted.video, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.structure, wanted.structure, atol=1e-5, rtol=1e-5)
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.gpu
@pytest.mark.parametrize("scope", SCOPES)
def test_on_cuda_the_default_trains_as_native_does(scope: str) -> None:
    device = torch.device("cuda")
    torch._dynamo.reset()
    wanted = gradients(make_model(scope).to(device), device)
    model = make_model(scope).to(device)
    assert Execution().prepare(model, device).attention == "flex"
    for name, grad in gradients(model, device).items():
        torch.testing.assert_close(grad, wanted[name], atol=1e-3, rtol=1e-3, msg=name)

"""What diffusers models can do, this one does: recomputed activations, other kernels, compiled blocks, LoRA."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_dispatch import attention_backend
from torch.utils._python_dispatch import TorchDispatchMode

from dualforce_model.audio import AudioConfig
from dualforce_model.batch import TalkingHeadBatch
from dualforce_model.bridge import BridgeConfig
from dualforce_model.model import DualForce, ModelConfig, Velocities
from dualforce_model.towers import StructureTowerConfig, VideoTowerConfig

Inputs = dict[str, Any]
STEPS = 4


def make_model(scope: str = "step", window: int = 2, **changes: Any) -> DualForce:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"heads": 2, "head_dim": 16, "layers": 2, "ffn_dim": 40, "freq_dim": 32}
    config = ModelConfig(
        video=VideoTowerConfig(patch_px=(2, 2), latent_channels=4, feature_dim=7, text_dim=3, **sizes),
        structure=StructureTowerConfig(entries=5, text_dim=3, **sizes),
        bridge=BridgeConfig.model_validate({"strategy": "full", "condition_dim": 16, "scope": scope}),
        audio=AudioConfig(features=6, layers=2, slot_dim=8, context_dim=16),
        window_steps=window,
    )
    model = DualForce(config.model_copy(update=changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def arguments(config: ModelConfig, batch: int = 2, num_steps: int = STEPS, side: int = 4) -> Inputs:
    fake = TalkingHeadBatch.fake(config, batch, num_steps, height=side, width=side)
    sigma = torch.rand(batch, num_steps, generator=torch.Generator().manual_seed(1))
    return {
        "video": fake.video,
        "structure": fake.structure,
        "audio": fake.audio,
        "reference": fake.reference,
        "sigma_video": sigma,
        "sigma_structure": sigma.flip(1),
        "positions": fake.positions,
        "text": torch.linspace(-1, 1, batch * 6).view(batch, 2, 3),
        "features": torch.linspace(-1, 1, batch * 21).view(batch, 3, 7),
    }


def gradients(model: DualForce, inputs: Inputs) -> dict[str, torch.Tensor]:
    model.zero_grad()
    out = model(**inputs)
    (out.video.square().sum() + out.structure.square().sum()).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("scope", ["step", "causal"])
def test_recomputed_activations_give_the_same_gradients(scope: str) -> None:
    """Of both towers, the bridge and the listening layers; and the forward keeps less for the backward."""
    model = make_model(scope)
    inputs = arguments(model.settings)
    plain, kept = gradients(model, inputs), saved_bytes(model, inputs)
    model.enable_gradient_checkpointing()
    again, kept_again = gradients(model, inputs), saved_bytes(model, inputs)
    for name, grad in plain.items():
        torch.testing.assert_close(again[name], grad, msg=name)
        assert grad.any(), f"{name} has no gradient at all"
    assert kept_again < kept / 3
    model.disable_gradient_checkpointing()
    assert saved_bytes(model, inputs) == kept


def saved_bytes(model: DualForce, inputs: Inputs) -> int:
    """What autograd keeps of a forward, parameters left out, each storage once."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out: Velocities = model(**inputs)
        return sum(seen.values()) + 0 * len(out)


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_the_chosen_kernel_reaches_every_attention() -> None:
    model = make_model("causal").requires_grad_(False)
    inputs = arguments(model.settings)
    before = model(**inputs)
    with attention_backend("native"):  # diffusers also switches its default, for the whole process: put it back
        for name in ("flex", "native"):
            model.set_attention_backend(name)
            chosen = {module.processor._attention_backend for module in model.modules() if hasattr(module, "processor")}
            assert {backend.value for backend in chosen} == {name}
            out = model(**inputs)
            torch.testing.assert_close(out.video, before.video, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(out.structure, before.structure, atol=1e-5, rtol=1e-5)


class Shapes(TorchDispatchMode):
    """Sizes of all tensors that operations make."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[str, torch.Size]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.made.append((str(func), tensor.shape))
        return made


@pytest.mark.parametrize("scope", ["step", "causal"])
def test_noise_levels_never_cost_six_numbers_per_token(scope: str) -> None:
    """Wan's own form makes [batch, tokens, 6, width]; nothing here is that big, forwards or backwards."""
    model = make_model(scope)
    inputs = arguments(model.settings, side=8)
    tokens, width = STEPS * 16, model.settings.video.dim
    with Shapes() as shapes:
        out = model(**inputs)
        (out.video.square().sum() + out.structure.square().sum()).backward()
    modulations = [shape for _, shape in shapes.made if shape[-2:] == (6, width)]
    assert torch.Size([2, STEPS, 6, width]) in modulations
    assert all(shape.numel() <= 2 * STEPS * 6 * width for shape in modulations)
    biggest = max((shape for _, shape in shapes.made), key=torch.Size.numel)
    assert biggest.numel() < 2 * tokens * 6 * width, biggest


def test_noise_levels_stay_in_full_precision_up_to_the_sinusoid() -> None:
    model = make_model().bfloat16()
    inputs = {
        name: value if name.startswith(("sigma", "positions")) else value.bfloat16()
        for name, value in arguments(model.settings).items()
    }
    inputs["sigma_video"] = torch.tensor([[0.0, 0.87325, 0.872, 0.87200003]]).expand(2, -1)
    heard: list[torch.Tensor] = []
    sinusoid = model.video.condition_embedder.timesteps_proj
    hook = sinusoid.register_forward_hook(lambda module, args, out: heard.append(args[0]))
    with torch.no_grad():
        model(**inputs)
    hook.remove()
    assert heard[0].dtype == torch.float32
    torch.testing.assert_close(heard[0], inputs["sigma_video"].flatten() * 1000, atol=0, rtol=0)


TORCHS_OWN = (  # warnings of torch's compiler about itself
    pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
)


@pytest.mark.parametrize(
    "backend",
    [
        pytest.param("aot_eager", marks=TORCHS_OWN),
        pytest.param("inductor", marks=(*TORCHS_OWN, pytest.mark.slow)),  # generates code: a minute or two
    ],
)
def test_compiled_blocks_train_the_same(backend: str) -> None:
    torch._dynamo.reset()
    eager, compiled = make_model(audio=None), make_model(audio=None)
    compiled.compile_repeated_blocks(backend=backend)
    inputs = {**arguments(eager.settings), "audio": None}
    wanted, found = gradients(eager, inputs), gradients(compiled, inputs)
    for name, grad in wanted.items():
        torch.testing.assert_close(found[name], grad, atol=1e-4, rtol=1e-4, msg=name)
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")
@pytest.mark.slow  # many small compilations
def test_compiled_blocks_stream_the_same() -> None:
    """Once the window is full, the steps of a stream compile nothing anew."""
    torch._dynamo.reset()
    eager, compiled = make_model(), make_model()
    compiled.compile_repeated_blocks(backend="aot_eager")
    torch.testing.assert_close(stream(compiled, 6), stream(eager, 6), atol=1e-5, rtol=1e-5)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch.testing.assert_close(stream(compiled, 9), stream(eager, 9), atol=1e-5, rtol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before > 0


@torch.no_grad()
def stream(model: DualForce, num_steps: int) -> torch.Tensor:
    """Video of a stream of single steps, far beyond the window of two."""
    inputs, cache = arguments(model.settings, num_steps=num_steps), model.new_cache(2)
    whole = ("reference", "text", "features")
    outs = []
    for step in range(num_steps):
        part = {name: value if name in whole else value[:, step : step + 1] for name, value in inputs.items()}
        outs.append(model(**part, cache=cache, commit=True).video)
    return torch.cat(outs, 1)


def test_lora_trains_adapters_alone_and_goes_through_a_folder(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="needs peft, an optional package")
    model = make_model()
    inputs = arguments(model.settings)
    model.requires_grad_(False)
    with torch.no_grad():
        before = model(**inputs).video
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    for part in ("video.blocks", "structure.blocks", "bridge", "listening"):
        assert any(name.startswith(part) for name in trained), part
    with torch.no_grad():
        assert torch.equal(model(**inputs).video, before)  # adapters begin as nothing
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        model(**inputs).video.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        after = model(**inputs).video
    assert not torch.equal(after, before)
    model.save_lora_adapter(tmp_path)
    other = make_model()
    other.load_lora_adapter(tmp_path, prefix=None, weight_name="pytorch_lora_weights.safetensors", use_safetensors=True)
    with torch.no_grad():
        torch.testing.assert_close(other(**inputs).video, after)

"""Block-causal attention: a dense mask, FlexAttention's blocks, and one unmasked call per step over what it sees.

python -m benchmarks.attention [--gpu]
"""

from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.measure import Bench, Way, benchmark
from dualforce_model.layers.masks import StepMask

# (steps, tokens per step, window): all that came before, and a band
CPU_SIZES = ((9, 64, 9), (32, 64, 32), (32, 64, 8))
GPU_SIZES = ((9, 1024, 9), (22, 1024, 22), (64, 1024, 22))
CPU_HEADS, GPU_HEADS = (4, 32), (12, 128)
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@benchmark
def main(gpu: bool, rounds: int, out: Path | None) -> None:
    """Block-causal attention: dense mask, FlexAttention, and prefix by prefix."""
    bench = Bench("attention", gpu, rounds, out)
    heads, width = GPU_HEADS if gpu else CPU_HEADS
    flex = torch.compile(flex_attention, dynamic=False)
    for steps, tokens, window in GPU_SIZES if gpu else CPU_SIZES:
        mask = StepMask.causal(steps, window)
        given = torch.randn(3, 1, heads, steps * tokens, width, device=bench.device, dtype=bench.dtype).unbind(0)
        ways = {
            "dense": by_mask(mask.dense(tokens, 0, bench.device)),
            "flex": by_blocks(flex, mask.flex(tokens, 0, bench.device)),
            "prefix": by_prefix(mask, tokens),
        }
        same_result({name: way(*given) for name, way in ways.items()})
        pairs = int(mask.visible.sum()) * tokens**2
        what = f"{steps} steps of {tokens}, window {window}"
        forward = 4 * heads * width * pairs
        bench.compare(f"{what}, forward", [_forward(name, way, given, forward) for name, way in ways.items()])
        # FlexAttention has no backward pass on the CPU.
        both = [name for name in ways if gpu or name != "flex"]
        bench.compare(f"{what}, and back", [_backward(name, ways[name], given, 3 * forward) for name in both])
    bench.finish()


def by_mask(mask: Tensor | None) -> Attend:
    """One call with a mask over all pairs of tokens."""
    return lambda query, key, value: scaled_dot_product_attention(query, key, value, attn_mask=mask)


def by_blocks(flex: Callable[..., Tensor], blocks: BlockMask) -> Attend:
    """FlexAttention: blocks that nobody sees are skipped."""
    return lambda query, key, value: flex(query, key, value, block_mask=blocks)


def by_prefix(mask: StepMask, tokens: int) -> Attend:
    """Step by step without a mask: the reference and a run of steps, cut out of the keys."""
    seen = [[key for key in mask.keys if mask.sees(step, key)] for step in mask.queries]

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        parts = []
        for step, steps in enumerate(seen):
            rows = query[:, :, step * tokens : (step + 1) * tokens]
            runs = [[key_step for _, key_step in run] for _, run in groupby(enumerate(steps), lambda x: x[1] - x[0])]
            keys, values = (
                torch.cat([x[:, :, run[0] * tokens : (run[-1] + 1) * tokens] for run in runs], dim=2)
                if len(runs) > 1
                else x[:, :, runs[0][0] * tokens : (runs[0][-1] + 1) * tokens]
                for x in (key, value)
            )
            parts.append(scaled_dot_product_attention(rows, keys, values))
        return torch.cat(parts, dim=2)

    return attend


def same_result(outs: dict[str, Tensor]) -> None:
    """All ways do the same work, or their times say nothing."""
    expected = outs["dense"].float()
    for out in outs.values():
        torch.testing.assert_close(out.float(), expected, atol=2e-2 if out.dtype == torch.bfloat16 else 1e-5, rtol=1e-2)


def _forward(name: str, attend: Attend, given: tuple[Tensor, ...], flops: int) -> Way:
    def run() -> None:
        with torch.no_grad():
            attend(given[0], given[1], given[2])

    return Way(name=name, run=run, tokens=given[0].shape[2], useful_flops=flops)


def _backward(name: str, attend: Attend, given: tuple[Tensor, ...], flops: int) -> Way:
    leaves = [x.detach().clone().requires_grad_() for x in given]

    def run() -> None:
        torch.autograd.grad(attend(*leaves).sum(), leaves)

    return Way(name=name, run=run, tokens=given[0].shape[2], useful_flops=flops)


if __name__ == "__main__":
    main()

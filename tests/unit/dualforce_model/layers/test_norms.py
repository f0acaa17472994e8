"""The CPU's own norm is torch's norm, forwards and backwards."""

import torch

from dualforce_model.layers.norms import RMSNorm, _RootMeanSquare


def test_values_and_gradients_are_torchs() -> None:
    torch.manual_seed(0)
    ours, theirs = RMSNorm(24, eps=1e-6), torch.nn.RMSNorm(24, eps=1e-6)
    with torch.no_grad():
        ours.weight.copy_(torch.rand(24))
        theirs.weight.copy_(ours.weight)
    x = torch.randn(3, 5, 24, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    upstream = torch.randn(3, 5, 24)
    a, b = ours(x), theirs(y)
    torch.testing.assert_close(a, b)
    a.backward(upstream)
    b.backward(upstream)
    torch.testing.assert_close(x.grad, y.grad)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)


def test_backward_is_the_derivative() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: _RootMeanSquare.apply(a, b, 1e-6), (x, weight))


def test_half_precision_takes_torchs_kernel() -> None:
    norm = RMSNorm(16, eps=1e-6).to(torch.bfloat16)
    assert norm(torch.randn(2, 16, dtype=torch.bfloat16)).dtype == torch.bfloat16

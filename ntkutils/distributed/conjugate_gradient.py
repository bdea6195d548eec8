"""Conjugate gradient for several right-hand sides at once, which checks its own residual."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .._validation import SingularKernelError

Linear = Callable[[Tensor], Tensor]


def conjugate_gradient(
    A: Linear, precondition: Linear, b: Tensor, x: Tensor, target: Tensor, most: int
) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """Yield solution and residual, (n, o) each, and whether the residual is ``b - A(x)`` or carried on.

    A column whose residual's norm has reached its ``target`` rests. When all have, or after ``most``
    steps, the residual is computed, which is the last one to come if it has reached the target, too.
    If rounding had hidden some of it, the iteration starts anew from there, unless that did not help
    the last time.
    """
    steps, best = 0, torch.inf
    while True:
        r = b - A(x) if x.any() else b.clone()
        yield x, r, True
        worst = (r.norm(dim=0) / target).max().item()
        if worst <= 1 or worst > best / 2 or steps == most:
            return
        best = worst
        p = z = precondition(r)
        rho = (r * z).sum(0)
        while steps < most and (active := r.norm(dim=0) > target).any():
            q = A(p)
            curvature = (p * q).sum(0)
            if not (curvature[active] > 0).all():
                raise SingularKernelError(
                    "kernel: expected it to be positive definite with its ridge, got a direction of "
                    f"curvature {curvature[active].min().item():.3g}; give a larger ridge"
                )
            step = torch.where(active, rho / curvature, 0.0)
            x, r = x + step * p, r - step * q
            yield x, r, False
            z = precondition(r)
            before, rho = rho, (r * z).sum(0)
            p = z + torch.where(active, rho / before, 0.0) * p
            steps += 1

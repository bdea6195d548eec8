r"""Training a network of finite width by full-batch gradient descent, and what happens on the way.

The loss is :math:`\tfrac12\sum_i |f(x_i)-y_i|^2`, a *sum* over the data points as in
:mod:`ntkutils.dynamics`, which predicts the same for a linear model.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import _validation as check_that
from .dynamics import DivergedError, Prediction, gradient_descent
from .empirical import empirical_ntk
from .mlp import MLP


@dataclass(frozen=True)
class Trace:
    """What was recorded of a training, after T of its steps.

    The axis S is there for a model with copies; more than one output gives ``train`` and ``test``
    a last axis of outputs.

    Attributes:
        steps: after which steps, ascending, shape (T,); 0 is the start.
        train: the outputs at the training points, shape (T, [S,] n).
        test: the outputs at the test points, shape (T, [S,] m); None without test points.
        moved: the distance of each layer's parameters, w^(j) and b^(j) as one vector, from where
            they started, shape (T, L+1, [S]).
        norms: the norm of each layer's parameters at the start, shape (L+1, [S]).
        model: the trained network.

    Example:
        >>> model = nu.MLP(2, width=8, depth=1, dtype=torch.float64)
        >>> x, y = torch.eye(2).double(), torch.ones(2).double()
        >>> trace = nu.train(model, x, y, learning_rate=0.1, steps=10, record=[0, 10])
        >>> trace.steps.tolist(), trace.train.shape, trace.moved[0].tolist()
        ([0, 10], torch.Size([2, 2]), [0.0, 0.0])
    """

    steps: Tensor
    train: Tensor
    test: Tensor | None
    moved: Tensor
    norms: Tensor
    model: MLP


def train(
    model: MLP,
    x: Tensor,
    targets: Tensor,
    *,
    learning_rate: float | Tensor,
    steps: int,
    x_test: Tensor | None = None,
    record: Sequence[int] | Tensor | None = None,
) -> Trace:
    r"""Train a copy of a network, with all the networks that it may be, by gradient descent.

    :math:`w \leftarrow w - \eta\,\nabla_w \tfrac12\sum_i |f(x_i)-y_i|^2` for all weights and biases.

    Args:
        model: the network at the start; it is not changed.
        x: the training points, shape (n, in_features).
        targets: y, shape (n,), or (n, o) for o > 1 outputs; for a model with S copies also (S, n)
            or (S, n, o), its own for each.
        learning_rate: eta; for a model with copies also shape (S,), its own for each.
        steps: how many.
        x_test: more points to record the outputs at, shape (m, in_features).
        record: after which of the steps 0 to ``steps`` to record, in any order; all if not given.
            Recording takes about as long as a step.

    Raises:
        DivergedError: as soon as an output or a distance is not finite, for all copies if for one.
        TypeError, ValueError: for arguments that are not as above.

    Example:
        >>> model = nu.MLP(1, width=1, depth=0, dtype=torch.float64)  # f = w·x
        >>> x, y = torch.ones(1, 1).double(), torch.ones(1).double()
        >>> residual = nu.train(model, x, y, learning_rate=0.5, steps=3).train[:, 0] - y
        >>> residual / residual[0]  # halved by each step
        tensor([1.0000, 0.5000, 0.2500, 0.1250], dtype=torch.float64)
    """
    if not isinstance(model, MLP):
        raise TypeError(f"model: expected an ntkutils.MLP, got {type(model).__name__}")
    x = check_that.require_inputs(model, x, "x")
    test_points = x[:0] if x_test is None else check_that.require_inputs(model, x_test, "x_test")
    y, rate = _targets(model, x, targets), _rate(model, learning_rate)
    steps = check_that.require_count(steps, "steps", least=0)
    recorded = _record(record, steps)
    trained = copy.deepcopy(model)
    *copies, o, _ = model.w[-1].shape
    f, f_test = (x.new_empty(len(recorded), *copies, len(z), o) for z in (x, test_points))
    moved = x.new_empty(len(recorded), model.depth + 1, *copies)

    def trace(rows: int) -> Trace:
        done = torch.tensor(recorded[:rows], dtype=torch.long)
        train, test = (a[:rows] if o > 1 else a[:rows, ..., 0] for a in (f, f_test))
        norms = _norms(model)
        return Trace(done, train, None if x_test is None else test, moved[:rows], norms, trained)

    rows = 0
    with torch.no_grad():
        for step in range(steps + 1):
            h, slopes = trained.layers(x)
            outputs = trained.affine(model.depth + 1, h[-1])
            finite = torch.isfinite(outputs).all((-2, -1))
            if rows < len(recorded) and recorded[rows] == step:
                f[rows], f_test[rows] = outputs, trained(test_points)
                moved[rows] = _norms(trained, model)
                finite &= torch.isfinite(moved[rows]).all(0)
                finite &= torch.isfinite(f_test[rows]).all((-2, -1))
                rows += bool(finite.all())
            if not finite.all():
                rates = sorted({f"{eta:.6g}" for eta in rate.flatten().tolist()}, key=float)
                raise DivergedError(
                    f"train: expected finite numbers, got NaN or infinite ones after {step} of "
                    f"{steps} steps in {int((~finite).sum())} of {finite.numel()} networks; "
                    f"learning_rate = {' to '.join(rates[:1] + rates[1:][-1:])}",
                    trace(rows),
                )
            if step < steps:
                _descend(trained, h, slopes, rate * (outputs - y))
    return trace(rows)


def train_linearized(
    model: MLP,
    x: Tensor,
    targets: Tensor,
    *,
    learning_rate: float | Tensor,
    steps: float | Tensor,
    x_test: Tensor | None = None,
) -> Prediction:
    """Return what :func:`train` would give for the network linearized at its weights, in closed form.

    Each copy has its own kernel, :func:`ntkutils.empirical_ntk`, and with it its own
    :func:`ntkutils.gradient_descent`.

    Args:
        model: the network at the start; it is not changed.
        x: the training points, shape (n, in_features).
        targets: y, in one of the shapes that :func:`train` takes.
        learning_rate: eta; for a model with copies also shape (S,), its own for each.
        steps: one number of steps, or a vector of T, such as a :class:`Trace` has.
        x_test: more points to predict at, shape (m, in_features).

    Returns:
        The outputs ``train`` and ``test``, shaped as those of a :class:`Trace` (without the axis T
        for one number of steps), and the ``kernel`` of each, shape ([S,] n·o, n·o).

    Raises:
        SingularKernelError, TypeError, ValueError: as :func:`ntkutils.gradient_descent`, and for
            arguments that do not fit the model.

    Example:
        >>> model = nu.MLP(1, width=1, depth=0, dtype=torch.float64)  # its own linearization
        >>> options = dict(x=torch.ones(1, 1).double(), targets=torch.ones(1).double(), learning_rate=0.5)
        >>> trace = nu.train(model, **options, steps=3)
        >>> torch.allclose(nu.train_linearized(model, **options, steps=trace.steps).train, trace.train)
        True
    """
    if not isinstance(model, MLP):
        raise TypeError(f"model: expected an ntkutils.MLP, got {type(model).__name__}")
    x = check_that.require_inputs(model, x, "x")
    test_points = x[:0] if x_test is None else check_that.require_inputs(model, x_test, "x_test")
    y, rate = _targets(model, x, targets), _rate(model, learning_rate)
    with torch.no_grad():
        outputs = [model(points) for points in (x, test_points)]
    kernels = [empirical_ntk(model, points, x) for points in (x, test_points)]
    if model.copies is None:
        outputs, kernels = ([a[None] for a in pair] for pair in (outputs, kernels))
    f0, f0_test = (a if a.shape[-1] > 1 else a[..., 0] for a in outputs)
    targets = y.expand_as(outputs[0]).reshape(f0.shape)
    rates = rate.flatten().expand(len(f0)).tolist()
    copies = [
        gradient_descent(
            kernels[0][s], targets[s], steps, learning_rate=rates[s], initial=f0[s],
            test_kernel=kernels[1][s], test_initial=f0_test[s],
        )
        for s in range(len(f0))
    ]  # fmt: skip
    if model.copies is None:
        train, test, kernel = copies[0].train, copies[0].test, copies[0].kernel
    else:
        axis = torch.as_tensor(steps).ndim
        train = torch.stack([one.train for one in copies], axis)
        test = torch.stack([one.test for one in copies if one.test is not None], axis)
        kernel = torch.stack([one.kernel for one in copies])
    return Prediction(train, None if x_test is None else test, kernel)


def _descend(model: MLP, h: list[Tensor], slopes: list[Tensor], delta: Tensor) -> None:
    r"""Take one step, in place; ``delta`` is the learning rate times the residual, ([S,] n, o).

    The gradients are :math:`\sigma_w\,\delta^{(j)T} h^{(j-1)}` and :math:`\sigma_b\sum_i\delta^{(j)}_i`
    as in :mod:`ntkutils.empirical`, and linear in delta. They are added without being stored, which
    is up to three times as fast as autograd.
    """
    for j in range(model.depth + 1, 0, -1):
        w = model.w[j - 1].data
        # of the weights before the step; below the first layer there is nothing
        below = model.weight_std * (delta @ w) * slopes[j - 2] if j > 1 else delta
        many = w.view(-1, *w.shape[-2:])  # one network is a batch of one
        left, right = (a.expand(len(many), -1, -1) for a in (delta.mT, h[j - 1]))
        many.baddbmm_(left, right, alpha=-model.weight_std)
        if model.b is not None:
            model.b[j - 1].data -= model.bias_std * delta.sum(-2)
        delta = below


def _norms(model: MLP, start: MLP | None = None) -> Tensor:
    """Return the norm of each layer's parameters, less those at the start; shape (L+1, [S])."""
    norm, layers = torch.linalg.vector_norm, []
    with torch.no_grad():
        for j in range(model.depth + 1):
            w = model.w[j] if start is None else model.w[j] - start.w[j]
            layers.append(norm(w, dim=(-2, -1)))
            if model.b is not None:
                b = model.b[j] if start is None or start.b is None else model.b[j] - start.b[j]
                layers[j] = torch.hypot(layers[j], norm(b, dim=-1))
    return torch.stack(layers)


def _targets(model: MLP, x: Tensor, targets: object) -> Tensor:
    """Return the targets with their axis of outputs, shape ([S,] n, o)."""
    y = check_that.require_tensor(targets, "targets")
    check_that.require_alike(x, y, "x", "targets")
    o = model.w[-1].shape[-2]
    shapes = [(len(x),) if o == 1 else (len(x), o)]
    if model.copies is not None:
        shapes.append((model.copies, *shapes[0]))
    if tuple(y.shape) not in shapes:
        raise ValueError(f"targets: expected shape {' or '.join(map(str, shapes))}, got {tuple(y.shape)}")
    return y[..., None] if o == 1 else y


def _rate(model: MLP, learning_rate: object) -> Tensor:
    """Return the learning rate in a shape that multiplies the outputs."""
    if not isinstance(learning_rate, Tensor):
        one = check_that.require_scale(learning_rate, "learning_rate", positive=True)
        rate: Tensor = model.w[0].new_tensor(one)
        return rate
    rate = check_that.require_tensor(learning_rate, "learning_rate").to(model.w[0])
    if rate.ndim > 0:
        shape = () if model.copies is None else (model.copies,)
        check_that.require_shape(rate, shape, "learning_rate", "a number, or one a copy")
    if (rate <= 0).any():
        raise ValueError(f"learning_rate: expected positive numbers, got {rate.min().item()}")
    return rate[..., None, None]


def _record(record: Sequence[int] | Tensor | None, steps: int) -> list[int]:
    if record is None:
        return list(range(steps + 1))
    record = record.tolist() if isinstance(record, Tensor) else list(record)
    numbers = sorted({check_that.require_count(step, "record", least=0) for step in record})
    if numbers and numbers[-1] > steps:
        raise ValueError(f"record: expected at most the number of steps, {steps}, got {numbers[-1]}")
    return numbers

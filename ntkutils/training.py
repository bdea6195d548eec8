r"""Training a network of finite width by full-batch gradient descent, and what happens on the way.

The loss is :math:`\tfrac12\sum_i |f(x_i)-y_i|^2`, a *sum* over the data points as in
:mod:`ntkutils.dynamics`, which predicts the same for a linear model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from . import _validation as check_that
from .dynamics import DivergedError, Prediction, gradient_descent
from .empirical import empirical_ntk
from .mlp import MLP
from .modules import Function, layers_of


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
            they started, shape (T, L+1, [S]); of another module than an MLP, a layer is a submodule
            that has parameters of its own, in the order of ``model.named_parameters()``.
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
    model: nn.Module


def train(
    model: nn.Module,
    x: Tensor,
    targets: Tensor,
    *,
    learning_rate: float | Tensor,
    steps: int,
    x_test: Tensor | None = None,
    record: Sequence[int] | Tensor | None = None,
) -> Trace:
    r"""Train a copy of a network, with all the networks that it may be, by gradient descent.

    :math:`w \leftarrow w - \eta\,\nabla_w \tfrac12\sum_i |f(x_i)-y_i|^2` for all parameters that
    require a gradient, which plain autograd computes.

    Args:
        model: the network at the start, any module; it is not changed, a copy of it is trained.
        x: the training points, shape (n, ...), for an MLP (n, in_features).
        targets: y, shape (n,), or (n, o) for o > 1 outputs; for a model with S copies also (S, n)
            or (S, n, o), its own for each.
        learning_rate: eta; for a model with copies also shape (S,), its own for each.
        steps: how many.
        x_test: more points to record the outputs at, shape (m, ...).
        record: after which of the steps 0 to ``steps`` to record, in any order; all if not given.
            Recording takes about as long as a step.

    Raises:
        DivergedError: as soon as an output or a distance is not finite, for all copies if for one.
        TypeError, ValueError: for arguments that are not as above, and for a module whose outputs are
            no function of one example, as for :func:`ntkutils.empirical_ntk`.

    Example:
        >>> model = nu.MLP(1, width=1, depth=0, dtype=torch.float64)  # f = w·x
        >>> x, y = torch.ones(1, 1).double(), torch.ones(1).double()
        >>> residual = nu.train(model, x, y, learning_rate=0.5, steps=3).train[:, 0] - y
        >>> residual / residual[0]  # halved by each step
        tensor([1.0000, 0.5000, 0.2500, 0.1250], dtype=torch.float64)
    """
    function, x, test_points, y, rate = _prepared(model, x, targets, x_test, learning_rate)
    steps = check_that.require_count(steps, "steps", least=0)
    recorded = _record(record, steps)
    trained, like = function.module, function.like
    copies, o = () if function.copies is None else (function.copies,), y.shape[-1]
    names = layers_of(model)
    start = {name: p.detach().clone() for name, p in trained.named_parameters()}
    f, f_test = (like.new_empty(len(recorded), *copies, len(z), o) for z in (x, test_points))
    moved = like.new_empty(len(recorded), len(names), *copies)

    def trace(rows: int) -> Trace:
        done = torch.tensor(recorded[:rows], dtype=torch.long)
        train, test = (a[:rows] if o > 1 else a[:rows, ..., 0] for a in (f, f_test))
        norms = _norms(start, names, len(copies))
        return Trace(done, train, None if x_test is None else test, moved[:rows], norms, trained)

    leaves, rows = function.leaves, 0
    for step in range(steps + 1):
        out = function.call(x)
        outputs = function.rows(out, len(x))
        finite = torch.isfinite(outputs).all((-2, -1))
        if rows < len(recorded) and recorded[rows] == step:
            f[rows] = outputs
            if len(test_points):
                f_test[rows] = function.rows(function.call(test_points), len(test_points))
            far = {name: p.detach() - start[name] for name, p in trained.named_parameters()}
            moved[rows] = _norms(far, names, len(copies))
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
            direction = (rate * (outputs - y)).view_as(out)
            with torch.no_grad():
                for leaf, g in zip(leaves, function.gradient(out, direction).values(), strict=True):
                    leaf -= g
    return trace(rows)


def train_linearized(
    model: nn.Module,
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
    function, x, test_points, y, rate = _prepared(model, x, targets, x_test, learning_rate)
    outputs = [function.rows(function.call(x), len(x))]
    outputs.append(
        function.rows(function.call(test_points), len(test_points))
        if len(test_points)
        else outputs[0][..., :0, :]
    )
    kernels = [empirical_ntk(model, points, x) for points in (x, test_points)]
    if function.copies is None:
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
    if function.copies is None:
        train, test, kernel = copies[0].train, copies[0].test, copies[0].kernel
    else:
        axis = torch.as_tensor(steps).ndim
        train = torch.stack([one.train for one in copies], axis)
        test = torch.stack([one.test for one in copies if one.test is not None], axis)
        kernel = torch.stack([one.kernel for one in copies])
    return Prediction(train, None if x_test is None else test, kernel)


def _prepared(
    model: nn.Module, x: object, targets: object, x_test: object | None, learning_rate: object
) -> tuple[Function, Tensor, Tensor, Tensor, Tensor]:
    """A copy of the model, points that fit it, targets ([S,] n, o), and a rate that multiplies outputs."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")

    def points(z: object, name: str) -> Tensor:
        if isinstance(model, MLP):
            return check_that.require_inputs(model, z, name).detach()
        z = check_that.require_examples(z, name)
        for p in model.parameters():
            if p.requires_grad:
                check_that.require_fitting(p, z, "the model's weights", name)
        return z.detach()

    x = points(x, "x")
    if not len(x):
        raise ValueError("x: expected at least one training point, got none")
    test_points = x[:0] if x_test is None else points(x_test, "x_test")
    if x_test is not None and x.shape[1:] != test_points.shape[1:]:
        raise ValueError(
            f"x and x_test: expected equal examples, "
            f"got shapes {tuple(x.shape)} and {tuple(test_points.shape)}"
        )
    function = Function.of(model)
    function.require_one_example(x, test_points)
    o = function.rows(function.call(x[:1]), 1).shape[-1]
    return function, x, test_points, _targets(function, x, o, targets), _rate(function, learning_rate)


def _norms(parameters: dict[str, Tensor], layers: list[list[str]], axes: int) -> Tensor:
    """Return the norm of each layer's parameters; shape (L+1, [S])."""
    return torch.stack(
        [
            torch.linalg.vector_norm(torch.cat([parameters[n].flatten(axes) for n in names], -1), dim=-1)
            if axes or len(names) > 1
            else torch.linalg.vector_norm(parameters[names[0]])
            for names in layers
        ]
    )


def _targets(function: Function, x: Tensor, o: int, targets: object) -> Tensor:
    """Return the targets with their axis of outputs, shape ([S,] n, o)."""
    y = check_that.require_tensor(targets, "targets").detach()
    check_that.require_alike(function.like, y, "x" if x.is_floating_point() else "weights", "targets")
    shapes = [(len(x),) if o == 1 else (len(x), o)]
    if function.copies is not None:
        shapes.append((function.copies, *shapes[0]))
    if tuple(y.shape) not in shapes:
        raise ValueError(f"targets: expected shape {' or '.join(map(str, shapes))}, got {tuple(y.shape)}")
    return y[..., None] if o == 1 else y


def _rate(function: Function, learning_rate: object) -> Tensor:
    """Return the learning rate in a shape that multiplies the outputs."""
    like = function.like
    if not isinstance(learning_rate, Tensor):
        one = check_that.require_scale(learning_rate, "learning_rate", positive=True)
        rate: Tensor = like.new_tensor(one)
        return rate
    rate = check_that.require_tensor(learning_rate, "learning_rate").detach().to(like)
    if rate.ndim > 0:
        shape = () if function.copies is None else (function.copies,)
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

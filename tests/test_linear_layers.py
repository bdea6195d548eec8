"""Linear layers in any module: the outer products of their gradients, and where they may not be used."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import ntkutils as nu
from ntkutils import linear_layers
from ntkutils.checks import compare
from ntkutils.linear_layers import survey
from ntkutils.modules import Function

OUTER = "<delta h^T, delta~ h~^T> = <delta, delta~> <h, h~>"


class Net(nn.Module):
    """tanh of a layer `a`, then a layer `b`; and `also`, a function of the network and its inputs."""

    def __init__(self, also=None, a=None):
        super().__init__()
        self.a, self.b, self.also = a or nn.Linear(5, 5), nn.Linear(5, 2), also

    def forward(self, x):
        h = torch.tanh(self.a(x))
        return self.b(h if self.also is None else h + self.also(self, x))


class Cube(torch.autograd.Function):
    """An operation in which torch's functions, as Python sees them, do not meet the weight."""

    generate_vmap_rule = True

    @staticmethod
    def forward(w):
        return w**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g):
        return 3 * ctx.saved_tensors[0] ** 2 * g


def tied():
    net = Net(lambda net, x: net.c(x))
    net.c = nn.Linear(5, 5)
    net.c.weight = net.a.weight
    return net


class Positions(nn.Module):
    """The layer `a` takes five vectors of an example, `b` one; a row `w` of weights makes a number."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(7))
        self.a, self.b = nn.Linear(1, 7), nn.Linear(7, 2)

    def forward(self, x):
        h = torch.tanh(self.a(x[..., None])).mean(1)
        return self.b(h) + functional.linear(h, self.w)[:, None]


class Constant(nn.Module):
    """The layer `a` takes a vector that is the same for all examples, and a weight itself."""

    def __init__(self):
        super().__init__()
        self.v = nn.Parameter(torch.randn(1, 3))
        self.a, self.b = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.b(torch.tanh(self.a(self.v) + x))


class Product(nn.Module):
    """One's own layer, without a bias."""

    def __init__(self, product):
        super().__init__()
        self.weight, self.product = nn.Parameter(torch.randn(5, 5)), product

    def forward(self, x):
        return self.product(x, self.weight)


def by_keyword(net, x):
    return functional.linear(x, weight=net.a.weight)


def in_vain(net, x):
    net.a(x)
    return 0


def unused():
    net = Net()
    net.c = nn.Linear(5, 5)
    return net


MODELS = {
    # what makes the network, and the layers of which the gradients are not formed
    "two layers": (Net, "a b"),
    "without biases": (lambda: nn.Sequential(nn.Linear(5, 2, bias=False)), "0"),
    "one feature": (lambda: nn.Sequential(nn.Linear(5, 1), nn.Tanh(), nn.Linear(1, 2)), "0 2"),
    "residual": (lambda: Net(lambda net, x: x), "a b"),
    "only looked at": (lambda: Net(lambda net, x: net.a.weight.shape[0]), "a b"),
    "compiled": (lambda: torch.compile(Net(), backend="eager"), "_orig_mod.a _orig_mod.b"),
    "not used": (unused, "a b"),
    "of a constant": (Constant, "a b"),
    "used twice": (lambda: Net(lambda net, x: net.a(x)), "b"),
    "used twice, once in vain": (lambda: Net(in_vain), "b"),
    "used twice, once by name": (lambda: Net(by_keyword), "b"),
    "in another function": (lambda: Net(lambda net, x: net.a.weight.square().sum()), "b"),
    "transposed": (lambda: Net(lambda net, x: x @ net.a.weight.T), "b"),
    "in an operation of one's own": (lambda: Net(lambda net, x: Cube.apply(net.a.weight).sum()), "b"),
    "tied": (tied, "b"),
    "computed": (lambda: Net(a=nn.utils.parametrizations.orthogonal(nn.Linear(5, 5))), "b"),
    "several positions": (Positions, "b"),
    "one's own layer, linear": (lambda: Net(a=Product(functional.linear)), "a b"),
    "one's own layer, a product": (lambda: Net(a=Product(torch.matmul)), "b"),
}


# torch.compile looks at .grad of what is no leaf, and does not always go with torch.func
@pytest.mark.filterwarnings("ignore:OptimizedModule:ntkutils.SlowRoadWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("name", MODELS)
def test_any_module(name, normal):
    make, expected = MODELS[name]
    torch.manual_seed(0)
    model = make().double()
    x1, x2 = normal(0, 6, 5), normal(1, 4, 5)
    function = Function.of(model)
    outputs, weights = function.one_of_the_copies(), function.weights
    assert survey(outputs, weights, x1[0]) == {f"{layer}.weight" for layer in expected.split()}
    kernel = nu.empirical_ntk(model, x1, x2, chunk_size=3)
    # all gradients formed, and the products summed
    jacobian = torch.func.vmap(torch.func.jacrev(outputs), (None, 0))
    pairs = zip(jacobian(weights, x1).values(), jacobian(weights, x2).values(), strict=True)
    formed = sum(torch.einsum("iap,jbp->ijab", g1.flatten(2), g2.flatten(2)) for g1, g2 in pairs)
    compare(OUTER, kernel.flatten(2), formed.flatten(2), "torch", "the gradients, formed", bound=1e-14)


def test_what_has_no_gradient(normal):
    weights = dict(nn.Linear(5, 2).double().named_parameters())
    assert survey(lambda weights, x: x, weights, normal(0, 5)) == set()


def test_its_gradient_in_the_points(normal):
    torch.manual_seed(0)
    model, x1, x2 = Net().double(), normal(0, 6, 5), normal(1, 4, 5)
    by_transform = torch.func.grad(lambda x: nu.empirical_ntk(model, x, x2).sum())(x1)
    x1.requires_grad_()
    (by_graph,) = torch.autograd.grad(nu.empirical_ntk(model, x1, x2).sum(), x1)
    assert (by_transform - by_graph).abs().max() < 1e-13 * by_graph.abs().max()


def test_gradients_are_not_formed(normal, monkeypatch):
    """100 examples, of which each has a million weights, and 3000 numbers in their place."""
    shapes = []
    of_one = linear_layers._of_one
    monkeypatch.setattr(
        linear_layers, "_of_one", lambda g1, *more: shapes.append(g1.shape[2:]) or of_one(g1, *more)
    )
    model = nn.Sequential(
        nn.Linear(5, 1000), nn.ReLU(), nn.Linear(1000, 1000), nn.ReLU(), nn.Linear(1000, 1)
    )
    nu.empirical_ntk(model.double(), normal(0, 100, 5))
    assert max(shape.numel() for shape in shapes) == 1000

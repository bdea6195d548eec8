"""What comes back from input at the limits: a table, one row an input; then gradients in the inputs."""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from test_activations import ALL, FACTORIES, SMOOTH
from test_activations import NAMES as ALL_NAMES
from test_kernels import OVERFLOWING, kind
from torch import nn

import ntkutils as nu
from ntkutils import activations
from ntkutils._validation import require_alike
from ntkutils.sklearn_kernel import NNGP, NTK

F64 = torch.float64


@dataclass(frozen=True)
class Error:
    """An error of a type that is expected, whose message has these words (a pattern)."""

    type: type[Exception]
    words: str


def rows(*table, name=""):
    """Parameters of a table whose rows begin with what the input is."""
    return [pytest.param(*row[1:], id=f"{name}{row[0]}") for row in table]


def check(call, expected):
    """``expected`` is an Error, a shape of finite numbers, a tensor up to rounding, or a property."""
    if isinstance(expected, Error):
        with pytest.raises(expected.type, match=expected.words):
            call()
        return
    came = call()
    if callable(expected):
        assert expected(came)
    elif isinstance(expected, tuple):
        assert came.shape == expected
        assert torch.isfinite(torch.as_tensor(came)).all()
    else:
        assert came.dtype == expected.dtype and came.shape == expected.shape
        # the same sum in another order: a few roundings, relative to the largest entry
        assert (came - expected).abs().max() <= 50 * torch.finfo(came.dtype).eps * expected.abs().max()


# --- the table ---------------------------------------------------------------------------------------

A = torch.tensor([[1.0, 2.0, 0.5], [0.3, -1.0, 0.7]], dtype=F64)
B = torch.tensor([[0.2, 0.1, -1.0]], dtype=F64)
ONES = torch.ones(2, 3)
META = torch.empty(2, 3, dtype=F64, device="meta")
NAN, INF = (torch.tensor([[1.0, bad]]) for bad in (math.nan, -math.inf))
MANY = torch.zeros(1, 2, dtype=F64).expand(10**6, 2)
WIDE = torch.stack([torch.zeros(2, 3, dtype=F64), A], 2)[..., 1]  # A, every other number of a tensor
NUMBERS = dict(depth=3, bias_std=0.3)


@dataclass(frozen=True, eq=False)
class SameAs:
    """The kernel of other points at depth 2."""

    x1: torch.Tensor
    x2: torch.Tensor | None = None


class Points(torch.Tensor):
    """As a library's own tensors are."""


JUMPING = dict(depth=4, activation="sign")

# x1, x2, the options beside depth=2, what comes back: a shape of finite numbers, the same numbers as
# another call, an error
KERNELS = rows(
    ("empty", A[:0], None, {}, (0, 0)),
    ("empty x1", A[:0], A, {}, (0, 2)),
    ("empty x2", A, A[:0], {}, (2, 0)),
    ("one row", B, None, {}, (1, 1)),
    ("one row beside two", A, B, {}, (2, 1)),
    ("one column", A[:, :1], None, {}, (2, 2)),
    ("one column, jumps", A[:1, :1], -2 * A[:1, :1], JUMPING, -torch.ones(1, 1, dtype=F64)),
    ("one column, jumps, other ratios", A[:, :1], None, JUMPING, torch.ones(2, 2, dtype=F64)),
    ("no columns", A[:, :0], None, {}, Error(ValueError, r"x1: expected shape \(n, d\).*got \(2, 0\)")),
    ("repeated rows", A[[0, 1, 0]], None, {}, lambda K: torch.equal(K, K[[2, 1, 0]][:, [2, 1, 0]])),
    ("antipodal rows", torch.cat([A, -A]), None, {}, (4, 4)),
    ("antipodal to x2", A, -A, {}, (2, 2)),
    ("a zero vector", 0 * B, A, {}, torch.zeros(1, 2, dtype=F64)),
    ("zero vectors", 0 * A, None, {}, torch.zeros(2, 2, dtype=F64)),
    ("a zero vector with bias", 0 * B, A, NUMBERS, (1, 2)),
    ("a zero vector among parallel ones", torch.cat([0 * B, B, B]), None, {}, (3, 3)),
    (
        "an angle of 4e-17, a power",
        torch.tensor([[1.0, 3.925231146709438e-17]], dtype=F64),
        torch.eye(2, dtype=F64),
        {"activation": activations.rectified_monomial(5), "bias_std": 0.1},
        (1, 2),
    ),
    (
        "an angle of 1e-60",
        torch.tensor([[1.0, 1e-60]], dtype=F64),
        torch.eye(2, dtype=F64),
        NUMBERS,
        (1, 2),
    ),
    ("norms of 1e150", 1e150 * A, None, {}, (2, 2)),
    ("norms of 1e-150", 1e-150 * A, None, {}, lambda K: (K.diagonal() > 0).all()),
    ("norms of 1e150 and 1e-150", 1e150 * A, 1e-150 * A, {}, SameAs(A, A)),
    ("norms of 1e18 in float32", 1e18 * ONES, 1e-18 * ONES, {}, SameAs(ONES, ONES)),
    (
        "norms of 1e30 in float32",
        1e30 * ONES,
        None,
        {},
        Error(OverflowError, "moments that torch.float32 can hold"),
    ),
    ("NaN", NAN, None, {}, Error(ValueError, r"x1: .*got 1 NaN or infinite, the first at index \(0, 1\)")),
    ("-inf", ONES[:, :2], INF, {}, Error(ValueError, r"x2: .*got 1 NaN or infinite")),
    (
        "integers",
        ONES.int(),
        None,
        {},
        Error(TypeError, "x1: expected dtype float32 or float64, got torch.int32"),
    ),
    ("booleans", ONES > 0, None, {}, Error(TypeError, "got torch.bool")),
    ("half precision", ONES.half(), None, {}, Error(TypeError, "got torch.float16")),
    ("complex", ONES.cfloat(), None, {}, Error(TypeError, "got torch.complex64")),
    ("bfloat16", ONES.bfloat16(), None, {}, Error(TypeError, "got torch.bfloat16")),
    ("sparse", A.to_sparse(), None, {}, Error(TypeError, r"x1: .* dense tensor.*to_dense\(\) makes one")),
    ("a subclass of Tensor", A.as_subclass(Points), A.clone(), {}, SameAs(A, A.clone())),
    ("the imaginary part", torch.complex(-A, A).imag, A.clone(), {}, SameAs(A, A.clone())),
    (
        "a vector",
        A[0],
        None,
        {},
        Error(ValueError, r"expected shape \(n, d\), one data point a row, got \(3,\)"),
    ),
    ("a number", A[0, 0], None, {}, Error(ValueError, r"expected shape \(n, d\).* got \(\)")),
    ("three axes", A[None], None, {}, Error(ValueError, r"expected shape \(n, d\).* got \(1, 2, 3\)")),
    (
        "mismatched features",
        A,
        A[:, :2],
        {},
        Error(ValueError, r"same number of features.*\(2, 3\) and \(2, 2\)"),
    ),
    ("mixed dtype", A, ONES, {}, Error(TypeError, "same dtype, got torch.float64 and torch.float32")),
    ("mixed device", A, META, {}, Error(ValueError, "x2: expected a tensor that holds numbers, .*meta")),
    ("no device", META, None, {}, Error(ValueError, "x1: expected a tensor that holds numbers, .*meta")),
    ("not contiguous", WIDE, WIDE.mT.contiguous().mT, {}, SameAs(A, A.clone())),
    ("expanded", B.expand(3, 3), None, {}, (3, 3)),
    ("flipped", A.flip(0), A.flip(0).clone(), {}, lambda K: K[0, 0] < K[1, 1]),
    ("requires_grad", A.clone().requires_grad_(), None, {}, lambda K: K.requires_grad),
    ("x2 requires_grad", A, A.clone().requires_grad_(), {}, lambda K: K.requires_grad),
    ("no requires_grad", A, None, {}, lambda K: not K.requires_grad),
    ("empty, requires_grad", A[:0].clone().requires_grad_(), A, {}, (0, 2)),
    ("a numpy array", A.numpy(), None, {}, Error(TypeError, "x1: .*got numpy.ndarray .torch.from_numpy")),
    (
        "a numpy array as x2",
        A,
        A.numpy(),
        {},
        Error(TypeError, "x2: .*got numpy.ndarray .torch.from_numpy"),
    ),
    ("a list", [[1.0]], None, {}, Error(TypeError, "x1: expected a torch.Tensor, got list")),
    ("None", None, A, {}, Error(TypeError, "x1: expected a torch.Tensor, got NoneType")),
    ("depth 0", A, B, {"depth": 0, "weight_std": 2.0}, 4 * A @ B.T),
    ("depth NumPy's 2", A, None, {"depth": np.int64(2)}, SameAs(A)),
    ("depth -1", A, None, {"depth": -1}, Error(ValueError, "depth: expected at least 0, got -1")),
    ("depth 1.0", A, None, {"depth": 1.0}, Error(TypeError, "depth: expected a whole number, got 1.0")),
    ("depth True", A, None, {"depth": True}, Error(TypeError, "depth: expected a whole number, got True")),
    ("depth 1000", A, B, {"depth": 1000}, (2, 1)),
    ("no weights", A, B, {"weight_std": 0}, torch.zeros(2, 1, dtype=F64)),
    (
        "weight_std -1",
        A,
        None,
        {"weight_std": -1.0},
        Error(ValueError, "weight_std: expected a finite non-neg"),
    ),
    (
        "bias_std inf",
        A,
        None,
        {"bias_std": math.inf},
        Error(ValueError, "bias_std: expected a finite non-neg"),
    ),
    (
        "bias_std '1'",
        A,
        None,
        {"bias_std": "1"},
        Error(TypeError, "bias_std: expected a real number, got '1'"),
    ),
    (
        "unknown activation",
        A,
        None,
        {"activation": "rleu"},
        Error(ValueError, "got 'rleu'; did you mean 'relu'"),
    ),
    ("activation 3", A, None, {"activation": 3}, Error(TypeError, "expected a name, an Activation")),
    (
        "n too large for memory",
        MANY,
        None,
        {},
        Error(MemoryError, r"10+ x 10+ entries of torch.float64, 8\.0 TB.*compute blocks of rows"),
    ),
    (
        "n1 and n2 too large",
        MANY,
        MANY.clone(),
        {},
        Error(MemoryError, r"10+ x 10+ entries of torch.float64, 8\.0 TB.*compute blocks of rows"),
    ),
)


@pytest.mark.parametrize("kernel", [nu.ntk, nu.nngp])
@pytest.mark.parametrize("x1, x2, options, expected", KERNELS)
def test_kernels(kernel, x1, x2, options, expected):
    if isinstance(expected, SameAs):
        expected = kernel(expected.x1, expected.x2, depth=2)
    check(lambda: kernel(x1, x2, **{"depth": 2} | options), expected)


@pytest.mark.parametrize("kernel", [nu.ntk, nu.nngp])
def test_autocast_takes_no_digits(kernel, normal):
    """Its matrix products, in bfloat16, were off by 1e-2 in float32 kernels; gradients failed."""
    x = normal(0, 5, 3).float()
    for options in ({}, {"bias_std": 0.3}):
        plain = kernel(x, depth=2, **options)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(kernel(x, depth=2, **options), plain)
            followed = kernel(x.clone().requires_grad_(), depth=2, **options)
        assert (followed - plain).abs().max() < 1e-5 * plain.max()


# phi, size of the points, what comes back: powers of powers leave float64, and say so
@pytest.mark.parametrize("size", [1e150, 1e-150])
@pytest.mark.parametrize("phi", ALL, ids=ALL_NAMES)
def test_every_activation_at_extreme_norms(phi, size):
    x = size * torch.tensor([[1.0, 2.0], [2.0, 4.0], [-1.0, 3.0]], dtype=F64)
    overflows = size > 1 and kind(phi) in OVERFLOWING and phi.name != "monomial(0)"
    words = r"expected second moments that torch.float64 can hold, got more at a standard deviation"
    check(lambda: nu.ntk(x, depth=3, activation=phi), Error(OverflowError, words) if overflows else (3, 3))


@pytest.mark.parametrize("kernel", [nu.ntk, nu.nngp])
@pytest.mark.parametrize(
    "phi, bias_std, sd", [("exp", 40.0, 50), ("exp", 0.0, 30), ("relu", 0.0, "3e.200")]
)
def test_an_overflow_says_which_norms_came(phi, bias_std, sd, kernel):
    """The larger of both sides', as the first layer makes it: 3·10 beside 40 gives 50."""
    large = torch.full((2, 1), 10.0 if phi == "exp" else 1e200, dtype=F64)
    size = r"\(depth 2, weight_std 3\)"
    words = rf"{phi}: expected second moments.*of the first pre-activations {size} of up to {sd}$"
    for x1, x2 in ((large, None), (large, large / 10), (large / 10, large)):
        with pytest.raises(OverflowError, match=words):
            kernel(x1, x2, depth=2, activation=phi, weight_std=3.0, bias_std=bias_std)


def test_zero_vectors_with_bias_by_hand():
    """Lambda^(1) = 1 + 1, and 1·K^(0) = 1."""
    check(lambda: nu.ntk(0 * A, depth=1, bias_std=1.0), torch.full((2, 2), 3.0, dtype=F64))


GET = activations.get
GETTING = rows(
    ("a name", lambda: GET("gelu"), lambda phi: phi is activations.gelu),
    ("an Activation", lambda: GET(FACTORIES[0]), lambda phi: phi is FACTORIES[0]),
    (
        "a slip",
        lambda: GET("rleu"),
        Error(ValueError, "expected one of abs, celu, .*'rleu'; did you mean 'relu'"),
    ),
    ("capitals", lambda: GET("GELU"), Error(ValueError, "got 'GELU'; did you mean 'gelu'")),
    ("torch's spelling", lambda: GET("LeakyReLU"), Error(ValueError, "did you mean 'leaky_relu'")),
    ("nothing near", lambda: GET("zebra"), Error(ValueError, "got 'zebra'; from_function makes one")),
    ("the empty name", lambda: GET(""), Error(ValueError, "got ''; from_function makes one")),
    (
        "a function",
        lambda: GET(lambda z: z),
        Error(TypeError, "from_function makes one.*got function"),
    ),
    ("None", lambda: GET(None), Error(TypeError, "expected a name, an Activation.*got NoneType")),
)


def mlp(*arguments, **options):
    return nu.MLP(*arguments, **{"dtype": F64, "generator": torch.Generator().manual_seed(0)} | options)


NET = mlp(3, 8, 2, bias_std=0.5)
MLPS = rows(
    ("no rows", lambda: NET(A[:0]), (0, 1)),
    ("one row", lambda: NET(B), (1, 1)),
    ("one column", lambda: mlp(1, 8, 2)(A[:, :1]), (2, 1)),
    ("depth 0", lambda: mlp(3, 8, 0)(A), (2, 1)),
    ("depth 1000", lambda: mlp(3, 4, 1000)(A), (2, 1)),
    ("depth -1", lambda: mlp(3, 4, -1), Error(ValueError, "depth: expected at least 0, got -1")),
    ("depth 1.0", lambda: mlp(3, 4, 1.0), Error(TypeError, "depth: expected a whole number, got 1.0")),
    ("NumPy's integers", lambda: mlp(np.int64(3), np.int64(4), np.int64(2))(A), (2, 1)),
    (
        "width 2.5",
        lambda: mlp(3, 2.5, 1),
        Error(TypeError, "width: expected a whole number or a sequence.*2.5"),
    ),
    ("width 0", lambda: mlp(3, 0, 1), Error(ValueError, "width: expected at least 1, got 0")),
    (
        "widths 4 and 'a'",
        lambda: mlp(3, [4, "a"], 2),
        Error(TypeError, "width: expected a whole number, got 'a'"),
    ),
    ("too many widths", lambda: mlp(3, (4, 4), 1), Error(ValueError, "each of the 1 hidden layers, got 2")),
    ("no features", lambda: mlp(0, 4, 1), Error(ValueError, "in_features: expected at least 1, got 0")),
    ("no outputs", lambda: mlp(3, 4, 1, 0), Error(ValueError, "out_features: expected at least 1, got 0")),
    ("unknown activation", lambda: mlp(3, 4, 1, 1, "rleu"), Error(ValueError, "did you mean 'relu'")),
    (
        "weight_std NaN",
        lambda: mlp(3, 4, 1, weight_std=math.nan),
        Error(ValueError, "weight_std: .*got nan"),
    ),
    (
        "integer weights",
        lambda: mlp(3, 4, 1, dtype=torch.int32),
        Error(TypeError, "dtype: .*got torch.int32"),
    ),
    (
        "complex weights",
        lambda: mlp(3, 4, 1, dtype=torch.cfloat),
        Error(TypeError, "dtype: .*got torch.complex64"),
    ),
    ("too large", lambda: mlp(10**9, 10**9, 1), Error(RuntimeError, "allocate")),  # torch's own
    (
        "mismatched features",
        lambda: NET(A[:, :2]),
        Error(RuntimeError, "shapes cannot be multiplied"),
    ),  # too
    ("mixed dtype", lambda: NET(ONES), Error(RuntimeError, "same dtype")),
    ("not contiguous", lambda: NET(WIDE), NET(A).detach()),
    ("1e150", lambda: NET(1e150 * A), (2, 1)),
    ("NaN", lambda: NET(NAN[:, [0, 1, 0]].double()), lambda f: f.isnan().all()),  # a module passes it on
)

LINEAR, BATCH = nn.Linear(3, 1).double(), nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
ENTK = nu.empirical_ntk
BOTH_MODELS = [
    row
    for name, f in (("an MLP ", NET), ("a module ", LINEAR))
    for row in rows(
        ("empty", lambda f=f: ENTK(f, A[:0]), (0, 0)),
        ("empty x2", lambda f=f: ENTK(f, A, A[:0]), (2, 0)),
        ("one row", lambda f=f: ENTK(f, B), (1, 1)),
        (
            "repeated rows",
            lambda f=f: ENTK(f, A[[0, 0]]),
            lambda K: (K - K[0, 0]).abs().max() <= 1e-14 * K.max(),
        ),
        ("antipodal", lambda f=f: ENTK(f, torch.cat([A, -A])), (4, 4)),
        ("a zero vector", lambda f=f: ENTK(f, 0 * B, A), (1, 2)),
        ("1e150", lambda f=f: ENTK(f, 1e150 * A), (2, 2)),
        ("1e-150", lambda f=f: ENTK(f, 1e-150 * A), (2, 2)),
        ("not contiguous", lambda f=f: ENTK(f, WIDE), ENTK(f, A)),
        ("requires_grad", lambda f=f: ENTK(f, A.clone().requires_grad_()).detach(), ENTK(f, A)),
        ("NaN", lambda f=f: ENTK(f, NAN.double()), Error(ValueError, "x1: expected finite numbers")),
        (
            "NaN in x2",
            lambda f=f: ENTK(f, A, NAN.double()),
            Error(ValueError, "x2: expected finite numbers"),
        ),
        (
            "integers",
            lambda f=f: ENTK(f, A.int()),
            # tokens are whole numbers, so that a module that wants others says so itself
            Error(TypeError, "x1: expected dtype float32 or float64")
            if isinstance(f, nu.MLP)
            else Error(ValueError, "takes a batch of examples, .* got RuntimeError: .* the same dtype"),
        ),
        (
            "complex",
            lambda f=f: ENTK(f, A.cfloat()),
            Error(TypeError, "x1: expected dtype float32 or float64"),
        ),
        ("mixed dtype of points", lambda f=f: ENTK(f, A, ONES), Error(TypeError, "same dtype")),
        (
            "mixed device",
            lambda f=f: ENTK(f, A, META),
            Error(ValueError, "x2: expected a tensor that holds"),
        ),
        ("a list", lambda f=f: ENTK(f, [[1.0]]), Error(TypeError, "x1: expected a torch.Tensor, got list")),
        ("a numpy array", lambda f=f: ENTK(f, A.numpy()), Error(TypeError, "x1: .*torch.from_numpy")),
        ("mismatched points", lambda f=f: ENTK(f, A, A[:, :2]), Error(ValueError, "x1 and x2: expected")),
        name=name,
    )
]
EMPIRICAL = BOTH_MODELS + rows(
    ("an MLP, a vector", lambda: ENTK(NET, A[0]), Error(ValueError, r"x1: expected shape \(n, d\)")),
    (
        "an MLP, other features",
        lambda: ENTK(NET, A[:, :2]),
        Error(ValueError, "x1: expected 3 features.*got 2"),
    ),
    (
        "an MLP, other dtype",
        lambda: ENTK(NET, ONES),
        Error(TypeError, "the model's weights and x1: .*same dtype"),
    ),
    ("an MLP of depth 0", lambda: ENTK(mlp(3, 8, 0), A), A @ A.T),
    ("an MLP of depth 100", lambda: ENTK(mlp(3, 8, 100), A), (2, 2)),
    (
        "a module, a number",
        lambda: ENTK(LINEAR, A[0, 0]),
        Error(ValueError, r"x1 and x2: expected shapes \(n1"),
    ),
    (
        "no model",
        lambda: nu.empirical_ntk_by_layer(torch.relu, A),
        Error(TypeError, "expected a torch.nn.Module, got builtin"),
    ),
    (
        "no parameters",
        lambda: ENTK(nn.Flatten(), A),
        Error(ValueError, "parameters that require a gradient"),
    ),
    (
        "examples that mix",
        lambda: ENTK(BATCH, A),
        Error(ValueError, "BatchNorm1d in training mode mixes examples; call model.eval"),
    ),
    ("chunk_size 1.5", lambda: ENTK(LINEAR, A, chunk_size=1.5), Error(TypeError, "chunk_size: .*got 1.5")),
    (
        "chunk_size 0",
        lambda: ENTK(LINEAR, A, chunk_size=0),
        Error(ValueError, "chunk_size: expected at least 1, got 0"),
    ),
    ("a module, other dtype", lambda: ENTK(LINEAR, ONES), Error(TypeError, "same dtype")),
    ("a function for a model", lambda: ENTK(torch.relu, A), Error(TypeError, "model: expected")),
)

K, Y, FLOW = nu.ntk(A, depth=1), torch.tensor([1.0, -1.0], dtype=F64), nu.gradient_flow


def descent(*arguments, **options):
    return nu.gradient_descent(*arguments, **{"learning_rate": 0.1} | options)


TIMES = torch.tensor([0.0, 1.0, math.inf], dtype=F64)
DYNAMICS = [
    row
    for name, train, amount in (("flow, ", FLOW, "time"), ("descent, ", descent, "steps"))
    for row in rows(
        (
            "no point",
            lambda f=train: f(K[:0, :0], Y[:0]),
            Error(ValueError, r"targets: expected shape.*got \(0,\)"),
        ),
        ("one point", lambda f=train: f(K[:1, :1], Y[:1], 3).train, (1,)),
        ("no test point", lambda f=train: f(K, Y, 3, test_kernel=K[:0]).test, (0,)),
        ("no times", lambda f=train: f(K, Y, TIMES[:0]).train, (0, 2)),
        ("no times, a singular kernel", lambda f=train: f(0 * K + 1e17, Y, TIMES[:0]).train, (0, 2)),
        ("times 0 to infinity", lambda f=train: f(K, Y, TIMES).train, (3, 2)),
        (
            "a number for a test kernel",
            lambda f=train: f(K, Y, test_kernel=1.0),
            Error(TypeError, "test_kernel: expected a torch.Tensor, got float"),
        ),
        (
            "time -1",
            lambda f=train: f(K, Y, -1),
            Error(ValueError, f"{amount}: expected a number or a vector"),
        ),
        ("time NaN", lambda f=train: f(K, Y, math.nan), Error(ValueError, f"{amount}: .*got nan")),
        (
            "time '1'",
            lambda f=train: f(K, Y, "1"),
            Error(TypeError, f"{amount}: expected a number.*got '1'"),
        ),
        ("time 1j", lambda f=train: f(K, Y, 1j), Error(TypeError, f"{amount}: expected a number.*got 1j")),
        (
            "time None",
            lambda f=train: f(K, Y, None),
            Error(TypeError, f"{amount}: expected a number.*got None"),
        ),
        (
            "a matrix of times",
            lambda f=train: f(K, Y, TIMES[None]),
            Error(ValueError, f"{amount}: expected"),
        ),
        ("NaN in the kernel", lambda f=train: f(math.nan * K, Y), Error(ValueError, "kernel: .*got 4 NaN")),
        (
            "inf in the targets",
            lambda f=train: f(K, math.inf * Y),
            Error(ValueError, "targets: .*got 2 NaN or inf"),
        ),
        (
            "kernel of integers",
            lambda f=train: f(K.int(), Y),
            Error(TypeError, "kernel: .*got torch.int32"),
        ),
        (
            "complex kernel",
            lambda f=train: f(K.cdouble(), Y),
            Error(TypeError, "kernel: .*got torch.complex128"),
        ),
        (
            "mixed dtype",
            lambda f=train: f(K, Y.float()),
            Error(TypeError, "kernel and targets: .*same dtype"),
        ),
        ("mixed device", lambda f=train: f(K, Y.to("meta")), Error(ValueError, "targets: .*meta")),
        ("a list", lambda f=train: f(K, [1.0, -1.0]), Error(TypeError, "targets: .*got list")),
        ("a numpy array", lambda f=train: f(K.numpy(), Y), Error(TypeError, "kernel: .*torch.from_numpy")),
        (
            "not square",
            lambda f=train: f(K[:, :1], Y),
            Error(ValueError, r"kernel: expected shape \(2, 2\)"),
        ),
        (
            "not symmetric",
            lambda f=train: f(K.triu(), Y),
            Error(ValueError, "kernel: expected a symmetric"),
        ),
        (
            "not semidefinite",
            lambda f=train: f(-K, Y),
            Error(ValueError, "kernel: expected eigenvalues of at least 0"),
        ),
        (
            "the same point twice",
            lambda f=train: f(0 * K + 1, Y),
            Error(nu.SingularKernelError, "give ridge="),
        ),
        ("the same, a ridge", lambda f=train: f(0 * K + 1, Y, ridge=0.1).train, (2,)),
        (
            "a kernel of zeros",
            lambda f=train: f(0 * K, Y),
            Error(nu.SingularKernelError, "a matrix of zeros"),
        ),
        (
            "not contiguous",
            lambda f=train: f(K, torch.stack([Y, Y], 1)[:, 0], 3).train,
            train(K, Y, 3).train,
        ),
        (
            "kernel requires_grad",
            lambda f=train: f(K.clone().requires_grad_(), Y, 3).train,
            lambda p: p.requires_grad,
        ),
        name=name,
    )
] + rows(
    ("flow, kernel of 1e300", lambda: FLOW(1e300 * K, Y).train, Y),
    ("flow, kernel of 1e-300", lambda: FLOW(1e-300 * K, Y).train, Y),
    (
        "descent, 1.5 steps",
        lambda: descent(K, Y, 1.5),
        Error(ValueError, "steps: expected whole numbers, got 1.5"),
    ),
    (
        "descent, rate 0",
        lambda: descent(K, Y, learning_rate=0),
        Error(ValueError, "finite positive number"),
    ),
    (
        "descent, rate 1e3",
        lambda: descent(K, Y, learning_rate=1e3),
        Error(ValueError, "below 2/lambda_max"),
    ),
    ("descent, a fast rate, 2 steps", lambda: descent(K, Y, 2, learning_rate=1e3).train, (2,)),
    (
        "descent, a rate as tensor",
        lambda: descent(K, Y, learning_rate=TIMES),
        Error(TypeError, "a real number"),
    ),
)

ENSEMBLES = [
    row
    for name, law in (("trained ensemble, ", nu.trained_ensemble), ("posterior, ", nu.posterior))
    for row in rows(
        ("no test point", lambda f=law: f(A, Y, A[:0], depth=1).covariance, (0, 0)),
        (
            "no point",
            lambda f=law: f(A[:0], Y[:0], A, depth=1),
            Error(ValueError, "x: expected at least one training"),
        ),
        ("one point", lambda f=law: f(A[:1], Y[:1], A, depth=1).covariance, (2, 2)),
        (
            "the same point twice",
            lambda f=law: f(A[[0, 0]], Y, A, depth=1),
            Error(nu.SingularKernelError, "give (ridge|noise)="),
        ),
        (
            "targets of other shape",
            lambda f=law: f(A, Y[:1], A, depth=1),
            Error(ValueError, r"targets: .* \(2,\)"),
        ),
        (
            "targets as list",
            lambda f=law: f(A, [1.0, 2.0], A, depth=1),
            Error(TypeError, "targets: .*got list"),
        ),
        (
            "NaN in the targets",
            lambda f=law: f(A, math.nan * Y, A, depth=1),
            Error(ValueError, "targets: .*2 NaN"),
        ),
        ("mixed dtype", lambda f=law: f(A, Y, ONES, depth=1), Error(TypeError, "x1 and x2: .*same dtype")),
        (
            "mixed device",
            lambda f=law: f(A, Y.to("meta"), A, depth=1),
            Error(ValueError, "targets: .*meta"),
        ),
        (
            "mismatched features",
            lambda f=law: f(A, Y, A[:, :2], depth=1),
            Error(ValueError, "number of features"),
        ),
        (
            "depth 1.0",
            lambda f=law: f(A, Y, A, depth=1.0),
            Error(TypeError, "depth: expected a whole number"),
        ),
        ("depth 0", lambda f=law: f(A, Y, B, depth=0).mean, (1,)),
        ("no depth", lambda f=law: f(A, Y, A), Error(TypeError, "required keyword-only argument: 'depth'")),
        (
            "unknown option",
            lambda f=law: f(A, Y, A, dept=1),
            Error(TypeError, "unexpected keyword argument 'dept'"),
        ),
        (
            "unknown activation",
            lambda f=law: f(A, Y, A, depth=1, activation="erv"),
            Error(ValueError, "mean 'erf'"),
        ),
        name=name,
    )
]

a = A.numpy()
SKLEARN = [
    row
    for name, k in (("NTK(), ", NTK), ("NNGP(), ", NNGP))
    for row in rows(
        ("empty", lambda k=k: k()(a[:0]), (0, 0)),
        ("one row", lambda k=k: k()(a[:1]), (1, 1)),
        ("one column", lambda k=k: k()(a[:, :1]), (2, 2)),
        ("a list of integers", lambda k=k: k()([[1, 2], [3, 4], [5, 6]]), (3, 3)),
        ("float32", lambda k=k: k()(a.astype(np.float32)), lambda K: K.dtype == np.float64),
        ("not contiguous", lambda k=k: k()(a.T.copy().T) - k()(a), lambda gap: not gap.any()),
        ("a tensor", lambda k=k: k()(A) - k()(a), lambda gap: not gap.any()),
        (
            "a tensor that requires_grad",
            lambda k=k: k()(A.clone().requires_grad_()),
            Error(RuntimeError, "detach"),
        ),
        ("a vector", lambda k=k: k()(a[0]), Error(ValueError, r"X: expected shape \(n, d\)")),
        ("NaN", lambda k=k: k()(math.nan * a), Error(ValueError, "X: expected finite numbers, got 6 NaN")),
        (
            "NaN on the diagonal",
            lambda k=k: k().diag(math.nan * a),
            Error(ValueError, "X: expected finite numbers"),
        ),
        (
            "complex",
            lambda k=k: k()(a * 1j),
            Error(TypeError, "X: expected an array of real numbers.*complex128"),
        ),
        (
            "words",
            lambda k=k: k()([["a"]]),
            Error(TypeError, "X: expected an array of real numbers, got list"),
        ),
        ("None", lambda k=k: k()(None), Error(TypeError, "X: .*got NoneType")),
        (
            "a sparse matrix",
            lambda k=k: k()(csr_matrix(a)),
            Error(TypeError, "X: .*its toarray.. makes one"),
        ),
        (
            "mismatched features",
            lambda k=k: k()(a, a[:, :2]),
            Error(ValueError, "X and Y: .*number of features"),
        ),
        (
            "depth NumPy's 0",
            lambda k=k: k(depth=np.int64(0))(a) - a @ a.T,
            lambda gap: np.abs(gap).max() < 1e-15,
        ),
        ("depth -1", lambda k=k: k(depth=-1)(a), Error(ValueError, "depth: expected at least 0, got -1")),
        (
            "depth 1.0",
            lambda k=k: k(depth=1.0)(a),
            Error(TypeError, "depth: expected a whole number, got 1.0"),
        ),
        (
            "weight_std '1'",
            lambda k=k: k(weight_std="1")(a),
            Error(TypeError, "weight_std: expected a real number"),
        ),
        (
            "unknown activation",
            lambda k=k: k(activation="rleu")(a),
            Error(ValueError, "did you mean 'relu'"),
        ),
        (
            "a gradient with Y",
            lambda k=k: k()(a, a, eval_gradient=True),
            Error(ValueError, "expected no Y"),
        ),
        name=name,
    )
]


@pytest.mark.parametrize("call, expected", GETTING + MLPS + EMPIRICAL + DYNAMICS + ENSEMBLES + SKLEARN)
def test_the_rest(call, expected):
    check(call, expected)


def test_tensors_on_two_devices():
    """Two real devices, of which a machine may have one: what every function asks of a pair."""
    with pytest.raises(ValueError, match="x1 and x2: expected the same device, got cpu and meta"):
        require_alike(A, META, "x1", "x2")


# --- gradients in the inputs -------------------------------------------------------------------------
# The kernel of x1 = x2 has a cusp in x1 for activations with a kink, -c·|angle|, and so has that of
# x1 = -x2. What autograd gives there is the mean of the two one-sided derivatives in every direction,
# which is what a central difference tends to. With directions along x1 and across it the cusp is even in
# the step, so that it drops out of the difference at every step and not only in the limit.

# Here a value is a function of a batch of points, (m, 3) -> (m,).

P = torch.tensor([0.5, 1.0, 0.25], dtype=F64) / 2
PLACES = {
    "generic": torch.tensor([0.3, -1.0, 0.7], dtype=F64) / 2,
    "coincident": P,
    "parallel": 2 * P,
    "antipodal": -P,
    "opposite": -2 * P,
    "orthogonal": torch.tensor([1.0, -0.5, 0.0], dtype=F64) / 2,  # a covariance of exactly 0
}
NETWORKS = [(nu.ntk, 0, 0.4), (nu.ntk, 1, 0.0), (nu.ntk, 1, 0.4), (nu.ntk, 3, 0.0), (nu.nngp, 2, 0.3)]
JUMPS = {"sign", "step"}


def networks(phi):
    """The networks, as kernels of two sets of points: pairs of depth and kernel."""
    for kernel, depth, bias_std in NETWORKS:
        yield depth, partial(kernel, depth=depth, activation=phi, bias_std=bias_std)


def gradient(value, p):
    """By autograd."""
    p = p.clone().requires_grad_()
    return torch.autograd.grad(value(p[None])[0], p)[0]


def central_differences(value, p):
    """In an orthonormal basis that begins with p (if p is not 0), put together to a gradient.

    Of sixth order with h = 2e-3: 1e-13 of rounding, and h⁶/140 times a seventh derivative, which is below
    1e8 times the kernel even for powers of powers: 1e-10 at most.
    """
    h, steps = 2e-3, torch.tensor([1, -1, 2, -2, 3, -3], dtype=F64)[:, None, None]
    basis = torch.linalg.qr(torch.cat([p[:, None], torch.eye(3, dtype=F64)], 1)).Q.T
    at = value((p + h * steps * basis).reshape(18, 3)).reshape(6, 3)
    one, two, three = at[::2] - at[1::2]
    return basis.T @ (45 * one - 9 * two + three) / (60 * h)


def close(value, p):
    ours, expected = gradient(value, p), central_differences(value, p)
    assert (ours - expected).abs().max() < 1e-9 * max(1, value(p[None]).abs().item()), (ours, expected)


def test_a_kernel_that_is_followed_is_the_same_and_symmetric(normal):
    x, other = normal(8, 23, 4), normal(9, 23, 4)
    for kernel in (nu.ntk, nu.nngp):
        for rest in ((), (other,), (other[:3],)):
            plain, followed = (
                kernel(z, *rest, depth=2, bias_std=0.3) for z in (x, x.clone().requires_grad_())
            )
            assert (followed - plain).abs().max() < 1e-14 * plain.max()
            assert rest or torch.equal(followed, followed.T)


def test_gradient_through_the_root_of_0():
    assert torch.isfinite(gradient(lambda p: nu.nngp(p, depth=1)[0], P)).all()


def test_gradient_through_the_gap_at_minus_1():
    antipodal = lambda p: nu.nngp(p, -P[None], depth=1, activation="exp", bias_std=0.4)[0]  # noqa: E731
    assert torch.isfinite(gradient(antipodal, P)).all()


def test_gradient_through_the_direction_of_a_zero_vector():
    for other in (P, 1e6 * P, 1e-12 * P):
        assert torch.equal(gradient(lambda p: nu.ntk(p, other[None], depth=0)[0], 0 * P), other)  # noqa: B023


def right_or_finite(right, value, p):
    if right:
        close(value, p)
    else:
        assert torch.isfinite(gradient(value, p)).all()


@pytest.mark.parametrize("phi", ALL, ids=ALL_NAMES)
@pytest.mark.parametrize("place", PLACES)
def test_gradients_are_right(place, phi):
    for depth, kernel in networks(phi):
        # The angle after a jump is a root of the one before: an infinite slope on both sides. And with a
        # bias points along x1 have angles, which are even in the step in the limit only.
        bias_std = kernel.keywords["bias_std"]
        right = phi.name not in JUMPS or depth == 0 or (depth == 1 and not bias_std)
        right_or_finite(right, lambda p: kernel(p, PLACES[place][None])[:, 0], P)  # noqa: B023


@pytest.mark.parametrize("phi", ["relu", "abs", "erf", "gelu", "sin", "exp"])
def test_gradients_through_a_kernel_of_points_among_themselves_are_right(phi):
    others = torch.stack(list(PLACES.values()))
    for _, kernel in networks(phi):
        close(lambda ps: torch.stack([kernel(torch.cat([p[None], others])).sum() for p in ps]), P)  # noqa: B023


@pytest.mark.parametrize("phi", ALL, ids=ALL_NAMES)
def test_gradients_of_the_diagonal_are_along_it(phi):
    """The derivative of x -> K(x, x), in which both arguments move: no angle ever opens."""
    for _, kernel in networks(phi):
        close(lambda p: kernel(p).diagonal(), P)  # noqa: B023


@pytest.mark.parametrize("depth", [0, 1, 5])
def test_gradients_of_relu_on_the_diagonal_by_hand(depth):
    """K(x, x) = (depth+1)·|x|² and Lambda(x, x) = |x|²."""
    for kernel, factor in ((nu.ntk, depth + 1), (nu.nngp, 1)):
        ours = gradient(lambda p: kernel(p, depth=depth)[0], P)  # noqa: B023
        assert (ours - 2 * factor * P).abs().max() < 1e-14 * factor


@pytest.mark.parametrize("phi", ALL, ids=ALL_NAMES)
def test_gradients_at_a_zero_vector(phi):
    """Right where the kernel has one: with a bias beside another point, and for smooth activations."""
    zero, other = torch.zeros(2, 1, 3, dtype=F64)
    other = other + PLACES["generic"]
    for depth, kernel in networks(phi):
        smooth = depth == 0 or kind(phi) in SMOOTH
        right = smooth or kernel.keywords["bias_std"] > 0
        right_or_finite(right, lambda p: kernel(p, other)[:, 0], zero[0])  # noqa: B023
        right_or_finite(smooth, lambda p: kernel(p, zero)[:, 0], zero[0])  # noqa: B023
        right_or_finite(smooth, lambda p: kernel(p).diagonal(), zero[0])  # noqa: B023


@pytest.mark.parametrize("phi", ALL, ids=ALL_NAMES)
def test_gradients_at_generic_points_pass_gradcheck(phi):
    """Torch's own test, of random combinations, by x1 and x2 and by one that is both."""
    x1, x2 = (x.clone().requires_grad_() for x in (A / 2, (B + 0.3) / 2))
    kernel = lambda *x: nu.ntk(*x, depth=2, activation=phi, bias_std=0.3)  # noqa: E731
    # steps of 1e-6: 1e-10 of rounding and 1e-12 times third derivatives
    assert torch.autograd.gradcheck(kernel, (x1, x2), eps=1e-6, atol=1e-7, rtol=1e-7, fast_mode=True)
    assert torch.autograd.gradcheck(kernel, (x1,), eps=1e-6, atol=1e-7, rtol=1e-7, fast_mode=True)


@pytest.mark.parametrize("phi", ["relu", "erf", "step"])
def test_forward_mode_agrees_with_reverse_mode(phi, normal):
    """Outside of torch.func too, where a tangent alone tells that a tensor is followed."""
    direction = normal(9, 2, 3)
    for _, kernel in networks(activations.get(phi)):
        jacobian = torch.autograd.functional.jacobian(kernel, A / 2)
        with torch.autograd.forward_ad.dual_level():
            K = kernel(torch.autograd.forward_ad.make_dual(A / 2, direction))
            tangent = torch.autograd.forward_ad.unpack_dual(K).tangent
        expected = (jacobian * direction).sum((2, 3))
        assert (tangent - expected).abs().max() < 1e-13 * max(1, expected.abs().max())

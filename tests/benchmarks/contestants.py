"""What is timed: each function makes its data and returns the call to time, in a process of its own.

A contestant is a name in ``CONTESTANTS``; its arguments are numbers and words, so that they can be
stored. Contestants of a row do the same work on the same numbers, and the runner compares what they
return: kernels of one set of points for all, or of two for all; one Jacobian where one is enough;
jax's float64 off where float32 is timed, as it slows the rest of it down.
"""

import ctypes
import itertools
import os
import time
from pathlib import Path

import numpy as np
import torch

import ntkutils as nu
from ntkutils import oracles

# ---- Kernels of infinite width --------------------------------------------------------------------


def inputs(n, d, dtype, seed=0):
    """Points of norm about 1."""
    return (np.random.default_rng(seed).standard_normal((n, d)) / d**0.5).astype(dtype)


def sets(n, d, dtype, pair):
    """One set of points, or two."""
    return [inputs(n, d, dtype), inputs(n, d, dtype, seed=1) if pair else None]


def ours(n, d, depth, dtype, activation="relu", bias_std=0.0, pair=False):
    x1, x2 = (None if x is None else torch.from_numpy(x) for x in sets(n, d, dtype, pair))
    if activation not in nu.activations.BY_NAME:
        activation = nu.activations.from_function(getattr(torch.nn.functional, activation))
    return lambda: nu.ntk(x1, x2, depth=depth, activation=activation, bias_std=bias_std)


def neural_tangents(n, d, depth, dtype, activation="relu", bias_std=0.0, pair=False):
    kernel_fn = stax_kernel(d, depth, activation, bias_std)
    import jax

    jax.config.update("jax_enable_x64", dtype == "float64")
    x1, x2 = (None if x is None else jax.numpy.asarray(x) for x in sets(n, d, dtype, pair))
    kernel = jax.jit(lambda x1, x2: kernel_fn(x1, x2, "ntk"))
    return lambda: kernel(x1, x2).block_until_ready()


def stax_kernel(d, depth, activation, bias_std):
    """The same network; the next layer's W_std normalises an activation, which costs nothing."""
    stax = oracles.neural_tangents().stax
    phi = {
        "relu": stax.Relu,
        "leaky_relu": lambda: stax.LeakyRelu(0.01),
        "abs": stax.Abs,
        "identity": stax.Identity,
        "sign": stax.Sign,
        "step": stax.Sign,  # (1 + sign)/√2: a constant, which acts as a bias does, and the sign
        "sin": stax.Sin,
        "cos": stax.Cos,
        "rbf": stax.Rbf,
        "exp": stax.Exp,
        "gaussian": lambda: stax.Gaussian(1.0, -0.5),
        "erf": stax.Erf,
        "sigmoid_like": stax.Sigmoid_like,
        "gelu": stax.Gelu,
    }[activation]()
    unit = np.ones((1, 1))
    moment = 2.0 if activation == "step" else stax.serial(stax.Dense(1), phi)[2](unit, None, "cov1").item()
    first = stax.Dense(1, W_std=d**0.5, b_std=bias_std or None)
    constant = 0.5 if activation == "step" else 0.0
    later = stax.Dense(1, W_std=moment**-0.5, b_std=(bias_std**2 + constant) ** 0.5 or None)
    return stax.serial(first, *depth * [phi, later])[2]


def product(n, d, depth, dtype):
    """Half of the matrix product and all of the result's memory, which nobody can do without."""
    x = torch.from_numpy(inputs(n, d, dtype))

    def call():
        K = x.new_empty(n, n)
        for i in range(0, n, 500):
            a, rest = slice(i, i + 500), slice(i, n)
            torch.mm(x[a], x[rest].T, out=K[a, rest])
            K[a.stop :, a] = K[a, a.stop :].T
        return K

    return call


def functions(n, d, depth, dtype):
    """The square roots and arc tangents of all layers, over and over in the same small memory."""
    pairs = n * (n + 1) // 2
    tile = torch.rand(min(pairs, 2**17), dtype=getattr(torch, dtype))
    angle = torch.empty_like(tile)

    def call():
        for _ in range(round(depth * pairs / len(tile))):
            torch.sqrt(tile, out=angle)
            torch.atan2(angle, tile, out=angle)

    return call


# ---- Kernels of finite networks -------------------------------------------------------------------


def mlp(d, width, depth, outputs, dtype):
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, dtype)
    return nu.MLP(d, width, depth, out_features=outputs, generator=generator, dtype=dtype)


def torch_mlp(d, width, depth, outputs, dtype):
    """A network of these sizes from torch's own layers."""
    torch.manual_seed(0)
    sizes = [d] + depth * [width]
    hidden = [layer for k in itertools.pairwise(sizes) for layer in (torch.nn.Linear(*k), torch.nn.ReLU())]
    return torch.nn.Sequential(*hidden, torch.nn.Linear(width, outputs)).to(getattr(torch, dtype))


class Block(torch.nn.Module):
    """Two convolutions and what goes around them."""

    def __init__(self, before, channels, stride):
        super().__init__()
        conv = lambda i, stride: torch.nn.Conv2d(i, channels, 3, stride, 1, bias=False)  # noqa: E731
        norm = torch.nn.BatchNorm2d
        self.inner = torch.nn.Sequential(
            conv(before, stride), norm(channels), torch.nn.ReLU(), conv(channels, 1), norm(channels)
        )
        around = torch.nn.Conv2d(before, channels, 1, stride, bias=False)
        self.around = torch.nn.Identity() if before == channels else around

    def forward(self, x):
        return torch.relu(self.inner(x) + self.around(x))


def resnet(channels, blocks):
    """ResNet-18 (64 channels, 2 blocks a stage) or a smaller one, for images of 32 x 32, in evaluation."""
    torch.manual_seed(0)
    widths = [channels * 2**stage for stage in range(4)]
    layers, before = [torch.nn.Conv2d(3, channels, 3, 1, 1, bias=False), torch.nn.ReLU()], channels
    for stage, width in enumerate(widths):
        for k in range(blocks):
            layers.append(Block(before, width, 2 if stage and not k else 1))
            before = width
    head = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(before, 10)]
    return torch.nn.Sequential(*layers, *head).eval()


def cnn():
    """The network of PyTorch's tutorial on neural tangent kernels."""
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 32, 3), torch.nn.ReLU()]
    return torch.nn.Sequential(
        *layers, torch.nn.Conv2d(32, 32, 3), torch.nn.Flatten(), torch.nn.Linear(21632, 10)
    )


def task(kind, n, tests=0, **sizes):
    """A module, and one or two sets of examples."""
    if kind in ("mlp", "torch mlp"):
        x = torch.from_numpy(inputs(n, sizes["d"], sizes["dtype"]))
        return (mlp if kind == "mlp" else torch_mlp)(**sizes), x, None
    model = cnn() if kind == "cnn" else resnet(**sizes)
    x = torch.randn(n + tests, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return model, x[:n], x[n:] if tests else None


def ours_empirical(chunk_size=None, **arguments):
    model, x1, x2 = task(**arguments)
    return lambda: nu.empirical_ntk(model, x1, x2, chunk_size=chunk_size)


def ours_in_one_chunk(n, tests=0, **arguments):
    return ours_empirical(chunk_size=max(n, tests), n=n, tests=tests, **arguments)


def single(model):
    weights = {name: p.detach() for name, p in model.named_parameters()}
    return weights, lambda weights, x: torch.func.functional_call(model, weights, (x[None],)).squeeze(0)


def contraction(**arguments):
    """PyTorch's tutorial, first method; one Jacobian where it would compute the same one twice."""
    model, x1, x2 = task(**arguments)
    weights, f = single(model)
    jacobian = torch.func.vmap(torch.func.jacrev(f), (None, 0))

    def call():
        first = jacobian(weights, x1).values()
        second = first if x2 is None else jacobian(weights, x2).values()
        pairs = zip(first, second, strict=True)
        return sum(torch.einsum("iaf,jbf->ijab", j1.flatten(2), j2.flatten(2)) for j1, j2 in pairs)

    return call


def vector_products(**arguments):
    """The same, second method: a Jacobian-vector product of a vector-Jacobian product."""
    model, x1, x2 = task(**arguments)
    weights, f = single(model)

    def of_pair(x1, x2):
        out, pull = torch.func.vjp(lambda w: f(w, x1), weights)
        push = lambda v: torch.func.jvp(lambda w: f(w, x2), (weights,), pull(v))[1]  # noqa: E731
        return torch.func.vmap(push)(torch.eye(len(out), dtype=out.dtype))

    grid = torch.func.vmap(torch.func.vmap(of_pair, (None, 0)), (0, None))
    return lambda: grid(x1, x1 if x2 is None else x2)


def loop(**arguments):
    """What one writes first: a backward pass for each output of each example, and a product at the end."""
    model, x1, x2 = task(**arguments)
    weights = [p for p in model.parameters() if p.requires_grad]

    def jacobian(x):
        rows = []
        for example in x:
            outputs = model(example[None])[0]
            for a, output in enumerate(outputs):
                grads = torch.autograd.grad(output, weights, retain_graph=a + 1 < len(outputs))
                rows.append(torch.cat([g.flatten() for g in grads]))
        return torch.stack(rows), len(outputs)

    def call():
        first, o = jacobian(x1)
        second = first if x2 is None else jacobian(x2)[0]
        return (first @ second.T).reshape(len(x1), o, -1, o).transpose(1, 2)

    return call


def by_neural_tangents(implementation):
    """Its three implementations, each with the fastest of its settings here, of the same MLP."""

    def make(kind, n, d, width, depth, outputs, dtype):
        nt, stax = oracles.neural_tangents(), oracles.neural_tangents().stax
        import jax

        jax.config.update("jax_enable_x64", dtype == "float64")
        model, x, _ = task(kind, n, d=d, width=width, depth=depth, outputs=outputs, dtype=dtype)
        first, later = stax.Dense(width, W_std=d**0.5), stax.Dense(width, W_std=2**0.5)
        layers = [first, stax.Relu(), *(depth - 1) * [later, stax.Relu()]]
        apply = stax.serial(*layers, stax.Dense(outputs, W_std=2**0.5))[1]
        weights = [(jax.numpy.asarray(w.detach().numpy().T), None) for w in model.w]
        params = [one for pair in weights for one in (pair, ())][:-1]
        x = jax.numpy.asarray(x.numpy())
        chosen = nt.NtkImplementation[implementation]
        kernel = jax.jit(nt.empirical_ntk_fn(apply, trace_axes=(), vmap_axes=0, implementation=chosen))
        return lambda: kernel(x, None, params).block_until_ready()

    return make


def products_of_mlp(kind, n, **sizes):
    """The matrix products of the whole computation, and nothing else: forward, back, and of the points."""
    model, x, _ = task(kind, n, **sizes)
    layers = [w.detach() for w in model.w]

    @torch.no_grad()
    def call():
        h = [x]
        for w in layers:
            h.append(h[-1] @ w.T)
        delta = [h[-1]]
        for w in layers[:0:-1]:
            delta.append(delta[-1] @ w)
        return [a @ a.T for a in h[:-1] + delta]

    return call


CONTESTANTS = {
    "ntkutils": ours,
    "neural-tangents": neural_tangents,
    "matrix product": product,
    "roots and arc tangents": functions,
    "ntkutils, empirical": ours_empirical,
    "ntkutils, one chunk": ours_in_one_chunk,
    "neural-tangents, structured derivatives": by_neural_tangents("STRUCTURED_DERIVATIVES"),
    "neural-tangents, vector products": by_neural_tangents("NTK_VECTOR_PRODUCTS"),
    "neural-tangents, contraction": by_neural_tangents("JACOBIAN_CONTRACTION"),
    "torch.func, vmap(jacrev)": contraction,
    "torch.func, vector products": vector_products,
    "torch, a loop": loop,
    "its matrix products": products_of_mlp,
}
FLOORS = {"matrix product", "roots and arc tangents", "its matrix products"}  # they return no kernel


# ---- The process of a contestant ------------------------------------------------------------------


def peak(call):
    """How much memory, in bytes, the process takes at most during the call, beyond what it had."""
    ctypes.CDLL(None).malloc_trim(0)
    status = Path("/proc/self/status")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    fields = lambda: dict(line.split(":", 1) for line in status.read_text().splitlines())  # noqa: E731
    before = int(fields()["VmRSS"].split()[0])
    result = call()
    after = int(fields()["VmHWM"].split()[0])
    del result
    return 1024 * (after - before)


def corner(result):
    """A few numbers to compare, away from the diagonal, where others lose half of their digits."""
    half = min(result.shape[:2]) // 2
    return np.asarray(result[:half, half:][:10, :10]).astype("float64").squeeze()


def prepare(name, arguments):
    """The call, and what was seen of its first one (which compiles, and loads) and of its second."""
    began = time.perf_counter()
    call = CONTESTANTS[name](**arguments)
    result = call()
    seen = {"first": time.perf_counter() - began}
    value = None if name in FLOORS else corner(result.detach() if torch.is_tensor(result) else result)
    del result
    seen["peak_bytes"] = peak(call) if Path("/proc/self/clear_refs").exists() else None
    return call, seen, value


def turn(call, seconds):
    """Wall and CPU seconds a call, of as many calls as fill the seconds; all threads count."""
    calls, wall, cpu = 0, time.perf_counter(), time.process_time()
    while not calls or time.perf_counter() - wall < seconds:
        result = call()
        calls += 1
        del result
    return (time.perf_counter() - wall) / calls, (time.process_time() - cpu) / calls, calls


def serve(connection):
    """Answer ("prepare", name, arguments) and ("turn", seconds), for as long as the process lives."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    while True:
        what, *message = connection.recv()
        try:
            if what == "prepare":
                call, *answer = prepare(*message)
            else:
                answer = turn(call, *message)
        except Exception as error:
            answer = RuntimeError(repr(error)[:500])
        connection.send(answer)

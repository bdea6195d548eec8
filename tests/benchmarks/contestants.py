"""What is timed: each function makes its data and returns the call to time, in a process of its own.

A contestant is a name in ``CONTESTANTS``; its arguments are numbers, so that they can be stored.
"""

import ctypes
import itertools
import os
import time
from pathlib import Path

import numpy as np
import torch

import ntkutils as nu


def inputs(n, d, dtype):
    return np.random.default_rng(0).standard_normal((n, d)).astype(dtype)


def serial(width, depth):
    from neural_tangents import stax

    layers = (layer for _ in range(depth) for layer in (stax.Dense(width), stax.Relu()))
    return stax.serial(*layers, stax.Dense(1))


def ours(n, d, depth, dtype, activation="relu"):
    x = torch.from_numpy(inputs(n, d, dtype))
    return lambda: nu.ntk(x, depth=depth, activation=activation)


def neural_tangents(n, d, depth, dtype):
    import jax

    jax.config.update("jax_enable_x64", dtype == "float64")
    kernel = jax.jit(lambda x: serial(1, depth)[2](x, None, "ntk"))
    x = jax.numpy.asarray(inputs(n, d, dtype))
    return lambda: kernel(x).block_until_ready()


def product(n, d, depth, dtype):
    """Half of the matrix product and all of the result's memory, which nobody can do without."""
    x = torch.from_numpy(inputs(n, d, dtype))

    def call():
        K = x.new_empty(n, n)
        for i in range(0, n, 500):
            a, rest = slice(i, i + 500), slice(i, n)
            torch.mm(x[a], x[rest].T, out=K[a, rest])
            K[rest, a] = K[a, rest].T
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


def network(d, width, depth):
    generator = torch.Generator().manual_seed(0)
    return nu.MLP(d, width, depth, generator=generator, dtype=torch.float32)


def ours_empirical(n, d, width, depth):
    model, x = network(d, width, depth), torch.from_numpy(inputs(n, d, "float32"))
    return lambda: nu.empirical_ntk(model, x)


def ours_of_any_module(n, d, width, depth):
    """A network of these sizes from torch's own layers."""
    sizes = [d] + depth * [width]
    hidden = [layer for k in itertools.pairwise(sizes) for layer in (torch.nn.Linear(*k), torch.nn.ReLU())]
    model = torch.nn.Sequential(*hidden, torch.nn.Linear(width, 1))
    x = torch.from_numpy(inputs(n, d, "float32"))
    return lambda: nu.empirical_ntk(model, x)


def structured_derivatives(n, d, width, depth):
    import jax
    import neural_tangents as nt

    init, apply, _ = serial(width, depth)
    _, weights = init(jax.random.PRNGKey(0), (-1, d))
    x = jax.numpy.asarray(inputs(n, d, "float32"))
    # the fastest of its three implementations here, with the fastest of its settings
    structured = nt.NtkImplementation.STRUCTURED_DERIVATIVES
    kernel = jax.jit(nt.empirical_ntk_fn(apply, trace_axes=(), vmap_axes=0, implementation=structured))
    return lambda: kernel(x, None, weights).block_until_ready()


def products_of_mlp(n, d, width, depth):
    """The matrix products of the whole computation, and nothing else: forward, back, and of the points."""
    model, x = network(d, width, depth), torch.from_numpy(inputs(n, d, "float32"))
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


def single(model):
    weights = {name: p.detach() for name, p in model.named_parameters()}
    return weights, lambda weights, x: torch.func.functional_call(model, weights, (x[None],)).squeeze(0)


def contraction(model, x1, x2):
    """PyTorch's tutorial on neural tangent kernels, first method."""
    weights, f = single(model)
    jacobian = torch.func.vmap(torch.func.jacrev(f), (None, 0))

    def call():
        pairs = zip(jacobian(weights, x1).values(), jacobian(weights, x2).values(), strict=True)
        return sum(torch.einsum("iaf,jbf->ijab", j1.flatten(2), j2.flatten(2)) for j1, j2 in pairs)

    return call


def vector_products(model, x1, x2):
    """The same, second method: a Jacobian-vector product of a vector-Jacobian product."""
    weights, f = single(model)

    def of_pair(x1, x2):
        out, pull = torch.func.vjp(lambda w: f(w, x1), weights)
        push = lambda v: torch.func.jvp(lambda w: f(w, x2), (weights,), pull(v))[1]  # noqa: E731
        return torch.func.vmap(push)(torch.eye(len(out), dtype=out.dtype))

    grid = torch.func.vmap(torch.func.vmap(of_pair, (None, 0)), (0, None))
    return lambda: grid(x1, x2)


def mlp_contraction(n, d, width, depth):
    x = torch.from_numpy(inputs(n, d, "float32"))
    return contraction(network(d, width, depth), x, x)


def two_backward_passes(n, d, width, depth):
    """The draft's way, for 16 pairs of points; the table multiplies."""
    model, x = network(d, width, depth), torch.from_numpy(inputs(4, d, "float32"))
    return lambda: nu.empirical_ntk_by_backward(model, x)


def gradients_of_cnn(n, tests):
    """The gradients in the weights of its convolutions, which nobody can do without; no kernel of them."""
    model, *x = cnn(n, tests)
    convolutions, rest = torch.nn.Sequential(*model[:5]), model[5:]
    weights, f = single(convolutions)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda w, x: rest(f(w, x)[None]).squeeze(0)), (None, 0))
    return lambda: [jacobian(weights, z) for z in x]


def cnn(n, tests):
    """The network and the shapes of the tutorial."""
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 32, 3), torch.nn.ReLU()]
    model = torch.nn.Sequential(
        *layers, torch.nn.Conv2d(32, 32, 3), torch.nn.Flatten(), torch.nn.Linear(21632, 10)
    )
    return model, torch.randn(n, 3, 32, 32), torch.randn(tests, 3, 32, 32)


CONTESTANTS = {
    "ntkutils": ours,
    "neural-tangents": neural_tangents,
    "matrix product": product,
    "roots and arc tangents": functions,
    "ntkutils, empirical": ours_empirical,
    "structured derivatives": structured_derivatives,
    "vmap(jacrev)": mlp_contraction,
    "two backward passes": two_backward_passes,
    "ntkutils, layers of torch": ours_of_any_module,
    "its matrix products": products_of_mlp,
    "ntkutils, CNN": lambda n, tests: (lambda of: lambda: nu.empirical_ntk(*of))(cnn(n, tests)),
    "tutorial, contraction": lambda n, tests: contraction(*cnn(n, tests)),
    "tutorial, vector products": lambda n, tests: vector_products(*cnn(n, tests)),
    "gradients in the convolutions": gradients_of_cnn,
}


def peak(call):
    """How much memory, in bytes, the process takes at most during the call, beyond what it had."""
    ctypes.CDLL(None).malloc_trim(0)
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    fields = lambda: dict(line.split(":", 1) for line in status.read_text().splitlines())  # noqa: E731
    before = int(fields()["VmRSS"].split()[0])
    result = call()
    after = int(fields()["VmHWM"].split()[0])
    del result
    return 1024 * (after - before)


def serve(connection, name, arguments):
    """Answer every message with the seconds that one call took; the first answer is the peak memory."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    call = CONTESTANTS[name](**arguments)
    call()  # compiles, and loads what is loaded at first use
    connection.send(peak(call))
    while connection.recv() == "go":
        start = time.perf_counter()
        result = call()
        connection.send(time.perf_counter() - start)
        del result

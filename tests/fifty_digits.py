"""Textbook expectations E[phi(u) phi(v)] and E[phi'(u) phi'(v)] in mpmath, at whatever precision is set.

They are written from A = E[u²], B = E[v²], c = E[uv] alone, in forms that cancel badly, and share nothing
with ntkutils. Each entry of ``EXPECTATIONS`` is a pair of functions of (A, B, c), not normalised.
"""

import math

from mpmath import mp, mpf


def angle(A, B, c):
    return mp.acos(max(-1, min(1, mp.re(c / mp.sqrt(A * B))))) if A * B > 0 else mp.pi / 2


def piecewise_linear(a, b):
    def value(A, B, c):
        t = angle(A, B, c)
        return (a**2 + b**2) / 2 * c - (a - b) ** 2 / (2 * mp.pi) * (t * c - mp.sqrt(A * B) * mp.sin(t))

    return value, lambda A, B, c: (a**2 + b**2) / 2 - (a - b) ** 2 / (2 * mp.pi) * angle(A, B, c)


def rectified(m, n, A, B, c):
    """E[u^m v^n; u > 0, v > 0] by integration by parts."""
    if m > n:
        return rectified(n, m, B, A, c)
    if n >= 2:
        boundary = 0
        if m == 0:  # the density of u at 0 times E[v^(n-1); v > 0 | u = 0]
            half = mp.gamma(mpf(n) / 2) * 2 ** (mpf(n - 1) / 2) / (2 * mp.sqrt(mp.pi))
            boundary = c / mp.sqrt(2 * mp.pi * A) * half * max(B - c**2 / A, 0) ** (mpf(n - 1) / 2)
        lower = c * m * rectified(m - 1, n - 1, A, B, c) if m else 0
        return (n - 1) * B * rectified(m, n - 2, A, B, c) + lower + boundary
    if m == 1:
        return piecewise_linear(mpf(0), mpf(1))[0](A, B, c)
    if n == 1:
        return (mp.sqrt(B) + c / mp.sqrt(A)) / (2 * mp.sqrt(2 * mp.pi))
    return (mp.pi - angle(A, B, c)) / (2 * mp.pi)


def rectified_monomial(n):
    return (
        lambda A, B, c: rectified(n, n, A, B, c),
        lambda A, B, c: n**2 * rectified(n - 1, n - 1, A, B, c),
    )


def power_moment(m, n, A, B, c):
    """E[u^m v^n] as a sum over pairings (Isserlis)."""
    single = lambda k, V: V ** (k // 2) * math.prod(range(1, k, 2)) if k % 2 == 0 else 0  # noqa: E731
    return mp.fsum(
        math.factorial(k) * math.comb(m, k) * math.comb(n, k) * c**k * single(m - k, A) * single(n - k, B)
        for k in range(min(m, n) + 1)
    )


def polynomial(coefficients):
    def of(coefficients):
        terms = [(n, p) for n, p in enumerate(coefficients) if p]
        return lambda A, B, c: mp.fsum(
            p * q * power_moment(m, n, A, B, c) for m, p in terms for n, q in terms
        )

    return of(coefficients), of([n * mpf(p) for n, p in enumerate(coefficients)][1:])


def sinusoid(frequency, phase):
    def waves(A, B, c, sign):
        f2 = frequency**2
        plus, minus = mp.exp(f2 * (c - (A + B) / 2)), mp.exp(f2 * (-c - (A + B) / 2))
        return (plus + sign * mp.cos(2 * phase) * minus) / 2

    return lambda *m: waves(*m, -1), lambda *m: frequency**2 * waves(*m, 1)


def erf(b):
    def sine(A, B, c):
        return 2 * b**2 * c / mp.sqrt((1 + 2 * b**2 * A) * (1 + 2 * b**2 * B))

    def slopes(A, B, c):
        return 4 * b**2 / mp.pi / mp.sqrt((1 + 2 * b**2 * A) * (1 + 2 * b**2 * B) - 4 * b**4 * c**2)

    return lambda *m: 2 / mp.pi * mp.asin(sine(*m)), slopes


def gelu():
    def value(A, B, c):
        Delta2 = (1 + A) * (1 + B) - c**2
        return c / 4 + (
            (c**2 + A * B * Delta2) / ((1 + A) * (1 + B) * mp.sqrt(Delta2))
            + c * mp.atan2(c, mp.sqrt(Delta2))
        ) / (2 * mp.pi)

    def slopes(A, B, c):
        Delta2 = (1 + A) * (1 + B) - c**2
        rational = 1 / Delta2 + (1 - A * B) / ((1 + A) * (1 + B)) + 1
        return mpf(1) / 4 + (mp.atan2(c, mp.sqrt(Delta2)) + rational * c / mp.sqrt(Delta2)) / (2 * mp.pi)

    return value, slopes


def sign():
    return lambda *m: 1 - 2 * angle(*m) / mp.pi, lambda *m: mpf(0)


def affine(scale, shift, pair):
    return lambda *m: scale**2 * pair[0](*m) + shift**2, lambda *m: scale**2 * pair[1](*m)


def expectations(kind, *arguments):
    """The pair for an activation of ntkutils, from its name's parts."""
    numbers = [[mpf(a) for a in b] if isinstance(b, list) else mpf(b) for b in arguments]
    n = arguments[0] if arguments else None
    half = mpf(1) / 2
    return {
        "relu": lambda: piecewise_linear(mpf(0), mpf(1)),
        "leaky_relu": lambda: piecewise_linear(*numbers, mpf(1)),
        "abs": lambda: piecewise_linear(mpf(-1), mpf(1)),
        "identity": lambda: piecewise_linear(mpf(1), mpf(1)),
        "sign": sign,
        "step": lambda: affine(half, half, sign()),
        "rectified_monomial": lambda: rectified_monomial(n),
        "polynomial": lambda: polynomial(*numbers),
        "monomial": lambda: polynomial([0] * n + [1]),
        "hermite": lambda: polynomial(mp.taylor(lambda z: mp.hermite(n, z / mp.sqrt(2)), 0, n)),
        "sin": lambda: sinusoid(mpf(1), mpf(0)),
        "cos": lambda: sinusoid(mpf(1), mp.pi / 2),
        "sinusoid": lambda: sinusoid(*numbers),
        "rbf": lambda: sinusoid(mp.sqrt(2 * numbers[0]), mp.pi / 4),
        "exp": lambda: (lambda A, B, c: mp.exp((A + B) / 2 + c),) * 2,
        "gaussian": lambda: (
            lambda A, B, c: 1 / mp.sqrt((1 + A) * (1 + B) - c**2),
            lambda A, B, c: c / mp.sqrt((1 + A) * (1 + B) - c**2) ** 3,
        ),
        "erf": lambda: erf(mpf(1)),
        "sigmoid_like": lambda: affine(half, half, erf(1 / mpf("2.4020563531719796"))),
        "gelu": gelu,
    }[kind]()

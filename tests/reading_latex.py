r"""Read the book's displayed formulas and evaluate them: both sides, with matrices.

A display is a few statements, `left = right` or with another relation. A formula's symbols are given
as they are printed, in a dictionary {LaTeX: meaning}; the longest that fits is read first:

- a meaning is a number, a tensor or, where its LaTeX has asterisks, a function of what stands there:
  `{r"\check\phi(*)": relu.dual}`, `{"u_{*}": lambda i: u[i]}`, `{"K(x,X)": rows}`;
- two-dimensional tensors are matrices: next to each other they are multiplied, in the order that is
  printed; vectors are columns. Other tensors hold one number for each case and are multiplied entry
  by entry;
- nothing is guessed: a symbol without a meaning, a scalar added to a matrix, columns added to rows
  and text that is left over are errors.
"""

import math
import re
from functools import lru_cache

import torch

TOKEN = re.compile(r"\\(?:text|operatorname|mathbf|mathtt|mathcal)\s*\{[^{}]*\}|\\[a-zA-Z]+|\\.|\S", re.S)
DROPPED = {r"\,", r"\;", r"\!", r"\:", r"\ ", "&", r"\left", r"\right", r"\displaystyle", "~"}
SIZES = re.compile(r"\\[bB]igg?[lr]?\b")
RELATIONS = {"=", r"\le", r"\ge", r"\approx", r"\sim", r"\longrightarrow", r"\to"}
OPENING = {"(": ")", "[": "]", "{": "}", r"\langle": r"\rangle"}
FUNCTIONS = {
    r"\sin": torch.sin, r"\cos": torch.cos, r"\arcsin": torch.asin, r"\arccos": torch.acos,
    r"\arctan": torch.atan, r"\sinh": torch.sinh, r"\cosh": torch.cosh, r"\log": torch.log,
}  # fmt: skip
CONSTANTS = {r"\pi": math.pi, "e": math.e}
STOPS = {"+", "-", r"\pm", ",", ")", "]", "}", r"\rangle", r"\cdot", r"\odot", "/", *RELATIONS, *FUNCTIONS}


class Unreadable(AssertionError):
    """A formula that the reader does not understand; never one that it guesses."""


class Lazy:
    """A meaning that is called with {name: value} of bound names, `read(bound, part)` and the parts."""

    def __init__(self, function):
        self.function = function


def tokens_of(latex):
    """The display's tokens, sub- and superscripts and arguments always in braces."""
    return list(_tokens(latex.replace("*", r"\ast ")))


@lru_cache(maxsize=10_000)
def _pattern(latex):
    """The tokens of a symbol, in which an asterisk stands for anything."""
    return _tokens(latex)


def _tokens(latex):
    latex = SIZES.sub("", re.sub(r"\\(begin|end)\{aligned\}|%.*", "", latex)).replace(r"\tfrac", r"\frac")
    found = [re.sub(r"\s", "", t) for t in TOKEN.findall(latex) if t not in DROPPED]
    return _braced(found)


def _braced(tokens):
    out, rest = [], list(tokens)

    def argument():
        if not rest:
            raise Unreadable("an argument is missing at the end")
        if rest[0] == "{":
            inner, depth = [rest.pop(0)], 1
            while depth:
                if not rest:
                    raise Unreadable("a brace is not closed")
                depth += {"{": 1, "}": -1}.get(rest[0], 0)
                inner.append(rest.pop(0))
            return ["{", *_braced(inner[1:-1]), "}"]
        return ["{", rest.pop(0), "}"]

    while rest:
        token = rest.pop(0)
        out.append(token)
        for _ in range({r"\frac": 2, r"\sqrt": 1, "^": 1, "_": 1}.get(token, 0)):
            out += argument()
    return out


def _split(tokens, separators):
    """The parts between separators that stand in no bracket, and the separators."""
    parts, found, depth = [[]], [], 0
    for token in tokens:
        depth += (token in OPENING) - (token in OPENING.values())
        if token in separators and depth == 0:
            parts.append([])
            found.append(token)
        else:
            parts[-1].append(token)
    return parts, found


def statements_of(latex):
    """Each statement of a display: the sides and the relations between them."""
    parts, found = _split(tokens_of(latex), {r"\qquad", r"\quad", r"\\", ",", ";"})
    joined = []
    for before, part in zip(["", *found], parts, strict=True):
        # a line may begin with what goes on; a comma or a full stop may end it
        if joined and part and part[0] in {"+", "-", *RELATIONS} and before != ",":
            joined[-1] += part
        elif part:
            joined.append(list(part))
    for part in joined:
        if part[-1] == ".":
            part.pop()
    return [_split(part, RELATIONS) for part in joined if part]


def _same(a, b, what):
    """Refuse what broadcasting would hide."""
    shapes = [
        tuple(x.shape) for x in (a, b) if isinstance(x, torch.Tensor) and x.ndim == 2 and x.numel() > 1
    ]
    if shapes and (len(shapes) < 2 or shapes[0] != shapes[1]):
        other = [getattr(x, "shape", "a number") for x in (a, b)]
        raise Unreadable(f"{what}: {other[0]} and {other[1]}")


def _is_matrix(a):
    return isinstance(a, torch.Tensor) and a.ndim == 2


def add(a, b):
    _same(a, b, "a sum of different shapes")
    return a + b


def multiply(a, b):
    if _is_matrix(a) and _is_matrix(b) and a.numel() > 1 and b.numel() > 1:
        if a.shape[1] != b.shape[0]:
            raise Unreadable(f"a product of matrices that do not fit: {tuple(a.shape)}, {tuple(b.shape)}")
        return a @ b
    return a * b


def dot(a, b):
    if _is_matrix(a) and _is_matrix(b) and a.shape == b.shape:
        return (a * b).sum()
    return multiply(a, b)


def divide(a, b):
    if _is_matrix(b) and b.numel() > 1:
        raise Unreadable("a division by a matrix")
    return a / b


def power(base, exponent):
    if _is_matrix(exponent) and exponent.numel() > 1:
        if base != math.e:
            raise Unreadable("a matrix as an exponent")
        return torch.matrix_exp(exponent)
    if _is_matrix(base) and base.numel() > 1:
        number = float(exponent)
        if base.shape[0] != base.shape[1]:
            raise Unreadable("a power of a matrix that is not square")
        if number == -1:
            return torch.linalg.inv(base)
        if number == int(number) and number >= 0:
            return torch.linalg.matrix_power(base, int(number))
        values, vectors = torch.linalg.eigh(base)
        return vectors @ torch.diag(values**number) @ vectors.T
    return base**exponent


def size(a):
    if _is_matrix(a):
        if 1 not in a.shape:
            raise Unreadable("| | of a matrix")
        return a.norm()
    return abs(a)


def spectral_norm(a):
    return torch.linalg.matrix_norm(a, 2) if _is_matrix(a) else abs(a)


class Reader:
    """A recursive descent through the tokens of one side; what comes out are functions of `bound`."""

    def __init__(self, tokens, meanings, names=()):
        self.tokens, self.at, self.names = tokens, 0, names
        self.meanings, self.bars = meanings, []

    def peek(self, ahead=0):
        return self.tokens[self.at + ahead] if self.at + ahead < len(self.tokens) else None

    def take(self, expected=None):
        token = self.peek()
        if token is None or (expected is not None and token != expected):
            raise Unreadable(f"expected {expected or 'more'}, got {token} in {' '.join(self.tokens)}")
        self.at += 1
        return token

    def group(self, names=None):
        """The inside of the bracket that opens here, read on its own."""
        start, depth = self.at + 1, 0
        while True:
            token = self.take()
            depth += (token in OPENING) - (token in OPENING.values())
            if depth == 0:
                break
        return self.tokens[start : self.at - 1]

    def inner(self, tokens, names=()):
        return Reader(tokens, self.meanings, (*self.names, *names)).whole()

    def whole(self):
        value = self.sum()
        if self.peek() is not None:
            raise Unreadable(f"left over: {' '.join(self.tokens[self.at :])} of {' '.join(self.tokens)}")
        return value

    def sum(self):
        value = None
        while True:
            sign = self.peek()
            if sign in ("+", "-"):
                self.take()
            elif sign == r"\pm":
                self.take()
                sign = self.meaning_of(r"\pm")
            elif value is not None:
                return value
            else:
                sign = "+"
            value = self._added(value, sign, self.product())

    @staticmethod
    def _added(left, sign, right):
        factor = {"+": 1, "-": -1}.get(sign, sign)
        if left is None:
            return right if sign == "+" else lambda bound: factor * right(bound)
        return lambda bound: add(left(bound), factor * right(bound))

    def meaning_of(self, name):
        if name not in self.meanings:
            raise Unreadable(f"no meaning of {name}")
        return self.meanings[name]

    def product(self):
        value = self.factor()
        while True:
            token = self.peek()
            if token == r"\odot":  # entry by entry, with all that follows
                self.take()
                value = self._combined(lambda a, b: a * b, value, self.product())
            elif token in (r"\cdot", "/"):
                self.take()
                value = self._combined(dot if token == r"\cdot" else divide, value, self.factor())
            elif token is None or token in {"+", "-", r"\pm", ",", *RELATIONS} or self.closes(token):
                return value
            else:
                value = self._combined(multiply, value, self.factor())

    @staticmethod
    def _combined(operation, left, right):
        return lambda bound: operation(left(bound), right(bound))

    def closes(self, token):
        return bool(self.bars) and self.bars[-1] == token

    def factor(self):
        value = self.atom()
        while self.peek() in ("^", "!"):
            if self.take() == "!":
                value = (lambda inner: lambda bound: math.factorial(int(inner(bound))))(value)
                continue
            exponent = self.group()
            value = self._raised(value, exponent)
        return value

    def _raised(self, base, exponent):
        if exponent == ["T"]:
            return lambda bound: base(bound).mT
        if exponent == ["+"]:
            return lambda bound: torch.linalg.pinv(base(bound))
        number = self.inner(exponent)
        return lambda bound: power(base(bound), number(bound))

    def atom(self):
        token = self.peek()
        if token in self.names:
            self.take()
            return lambda bound: bound[token]
        if (found := self.named()) is not None:
            return found
        if token is not None and token.isdigit():
            return self.number()
        if token in ("(", "[", "{"):
            return self.inner(self.group())
        if token in ("|", r"\|"):
            self.take()
            self.bars.append(token)
            inside = self.sum()
            self.take(self.bars.pop())
            norm = size if token == "|" else spectral_norm
            return lambda bound: norm(inside(bound))
        if token == r"\langle":
            left, right = (self.inner(part) for part in self.pair(self.group()))
            return lambda bound: dot(left(bound), right(bound))
        if token == r"\frac":
            self.take()
            above, below = self.inner(self.group()), self.inner(self.group())
            return lambda bound: divide(above(bound), below(bound))
        if token == r"\sqrt":
            self.take()
            inside = self.inner(self.group())
            return lambda bound: power(inside(bound), 0.5)
        if token in FUNCTIONS:
            return self.function()
        if token in (r"\sum", r"\prod"):
            return self.repeated()
        if token == r"\int":
            return self.integral()
        raise Unreadable(f"no meaning of {' '.join(self.tokens[self.at :])} in {' '.join(self.tokens)}")

    @staticmethod
    def pair(tokens):
        parts, _ = _split(tokens, {","})
        if len(parts) != 2:
            raise Unreadable(f"expected two parts: {' '.join(tokens)}")
        return parts

    def number(self):
        digits = self.take()
        while self.peek() is not None and (
            self.peek().isdigit() or (self.peek() == "." and (self.peek(1) or "").isdigit())
        ):
            digits += self.take()
        value = float(digits)
        return lambda bound: value

    def function(self):
        apply = FUNCTIONS[self.take()]
        exponent = None
        if self.peek() == "^":
            self.take()
            exponent = self.inner(self.group())
        if self.peek() == "(":
            argument = self.inner(self.group())
        else:
            argument = self.factor()
            while not (self.peek() is None or self.peek() in STOPS or self.peek() in ("(", "[", "d")
                       or self.closes(self.peek())):  # fmt: skip
                argument = self._combined(multiply, argument, self.factor())
        if exponent is None:
            return lambda bound: apply(torch.as_tensor(argument(bound), dtype=torch.float64))
        return lambda bound: apply(torch.as_tensor(argument(bound), dtype=torch.float64)) ** exponent(bound)

    def limits(self):
        """What stands below and above a sum, a product or an integral."""
        found = {}
        while self.peek() in ("_", "^"):
            which = self.take()
            found[which] = self.group()
        return found.get("_"), found.get("^")

    def repeated(self):
        """A sum or product: from below to above; 60 terms where nothing is above; or a "range i"."""
        product = self.take() == r"\prod"
        below, above = self.limits()
        if below is None:
            raise Unreadable("a sum over nothing")
        name = below[0]
        if len(below) == 1:
            numbers = self.meaning_of(f"range {name}")
            first, last = (lambda bound: numbers[0]), (lambda bound: numbers[-1])
        elif below[1] == r"\ge" and above is None:
            first = self.inner(below[2:])
            last = lambda bound: first(bound) + 60  # noqa: E731
        elif below[1] == "=" and above is not None:
            first, last = self.inner(below[2:]), self.inner(above)
        else:
            raise Unreadable(f"limits of a sum: {below} {above}")
        names, self.names = self.names, (*self.names, name)
        body = self.product()
        self.names = names

        def value(bound):
            total = 1.0 if product else 0.0
            for number in range(int(first(bound)), int(last(bound)) + 1):
                term = body({**bound, name: number})
                total = multiply(total, term) if product else total + term
            return total

        return value

    def integral(self):
        """An integral from below to above, up to d and its variable."""
        self.take()
        # without limits, over all numbers: over what is not 0 beside a normal density
        limits = [self.inner(limit) for limit in self.limits() if limit is not None]
        below, above = limits or (lambda bound: -12.0, lambda bound: 12.0)
        ends = [i for i in range(self.at, len(self.tokens) - 1) if self.tokens[i] == "d"]
        if not ends:
            raise Unreadable("an integral without d")
        end = ends[-1]
        name = self.tokens[end + 1]
        body = self.inner(self.tokens[self.at : end], (name,))
        self.at = end + 2

        def value(bound):
            import numpy as np

            nodes, weights = map(torch.as_tensor, np.polynomial.legendre.leggauss(400))
            a, b = below(bound), above(bound)
            at = a + (b - a) * (nodes + 1) / 2
            return ((b - a) / 2 * weights * body({**bound, name: at})).sum()

        return value

    def named(self):
        """The longest symbol of the dictionary that stands here."""
        best = None
        for latex, meaning in {**CONSTANTS, **self.meanings}.items():
            pattern = _pattern(latex)
            match = self.match(pattern) if pattern else None
            length = match and (match[0], len(pattern) - 2 * len(match[1]))  # an asterisk fits less well
            if match is not None and (best is None or length > best[0]):
                best = length, match[1], meaning
        if best is None:
            return None
        (end, _), parts, meaning = best
        self.at = end
        if isinstance(meaning, Lazy):

            def read(bound, part):
                return self.inner(part, tuple(bound))(bound)

            return lambda bound: meaning.function(bound, read, *parts)
        parts = [self.inner(part) for part in parts]
        if not callable(meaning):
            return lambda bound: meaning
        return lambda bound: meaning(*(part(bound) for part in parts))

    def match(self, pattern):
        """Where the pattern ends if it stands here, and what stands for its asterisks."""
        at, parts = self.at, []
        for number, token in enumerate(pattern):
            if token != "*":
                if at >= len(self.tokens) or self.tokens[at] != token:
                    return None
                at += 1
                continue
            closing, start, depth = pattern[number + 1], at, 0
            while at < len(self.tokens) and not (depth == 0 and self.tokens[at] == closing):
                depth += (self.tokens[at] in OPENING) - (self.tokens[at] in OPENING.values())
                if depth < 0:
                    return None
                at += 1
            if at == len(self.tokens) or at == start:
                return None
            parts.append(self.tokens[start:at])
        return at, parts


def evaluate(tokens, meanings):
    """The value of one side."""
    return Reader(tokens, meanings).whole()({})

"""The living figures in a real browser: their numbers are those of ntkutils, and hands can move them."""

import itertools
import math
import re
import sys

import pytest
import torch
from browsing import ROOT, VIEWS, axe_problems

import ntkutils as nu

PAGES = {
    "widen": "chapters/one_hidden_layer.html",
    "depth": "chapters/recursion.html",
    "drag": "chapters/index.html",
}
NUMBERS = "chapters/bibliography.html"  # any page of the book will do, and this one is short
ACTIVATIONS = ["relu", "abs", "erf", "gelu", "sin", "cos", "gaussian", "rbf", "identity"]
BOUND = 1e-9  # relative to the largest number of a curve
FRAME = 50  # ms

sys.path.insert(0, str(ROOT / "chapters/_extensions"))
import drag_picture  # noqa: E402


@pytest.fixture
def figure(visit):
    """figure(name, **context) opens the page of a living figure and waits until it lives."""

    def open_figure(name, **options):
        page = visit(PAGES[name], **options)
        page.locator(f"img.living-{name}").evaluate("img => img.parentElement.scrollIntoView()")
        page.wait_for_function("document.querySelector('.living')?.drawn")
        page.evaluate("MathJax.startup.promise")  # formulas that come later would move the figure
        page.locator(".living").scroll_into_view_if_needed()
        return page

    return open_figure


def drawn(page):
    """The numbers on the screen, once what was changed last is there."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page.evaluate(
        """() => JSON.parse(JSON.stringify(document.querySelector(".living").drawn,
           (_, value) => ArrayBuffer.isView(value) ? Array.from(value) : value))"""
    )


def slide(page, label, value):
    page.get_by_role("slider", name=label).evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }", value
    )


def computed(page, expression, argument=None):
    """What a JavaScript function of (kernels.js, argument) returns, in the browser."""
    return page.evaluate(
        f"""async (argument) => {{
            const kernels = await import(new URL("/_static/living/kernels.js", location.href));
            return ({expression})(kernels, argument);
        }}""",
        argument,
    )


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def assert_close(ours, theirs, what, scale=None):
    ours, theirs = tensor(ours), theirs if isinstance(theirs, torch.Tensor) else tensor(theirs)
    assert ours.shape == theirs.shape, what
    scale = theirs.abs().max() if scale is None else scale
    error = ((ours - theirs).abs().max() / scale).item()
    assert error < BOUND, f"{what}: relative error {error:.2g}"


def circle(angles):
    angles = tensor(angles)
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def options_of(network):
    names = {"weightStd": "weight_std", "biasStd": "bias_std"}
    return {names.get(name, name): value for name, value in network.items()}


# ---- The numbers -----------------------------------------------------------------------------

ANGLES = [0.0, 1e-12, 1e-7, 1e-3, 0.3, 1.0, math.pi / 2, 2.0, 3.0]
ANGLES += [math.pi - 1e-3, math.pi - 1e-7, math.pi]
SCALES = [(1.0, 0.0), (0.8, 0.6), (1.3, 0.4)]


def test_figures_offer_the_activations_tested_here(visit):
    assert computed(visit(NUMBERS), "k => Object.keys(k.activations)") == ACTIVATIONS


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_kernels_on_the_circle(visit, activation):
    page, points = visit(NUMBERS), circle(ANGLES)
    for depth in (0, 1, 2, 5, 20):
        for weight_std, bias_std in SCALES:
            network = dict(depth=depth, activation=activation, weightStd=weight_std, biasStd=bias_std)
            found = computed(
                page,
                "(k, [angles, network]) => angles.map(angle => k.kernels(k.circle(angle), network))",
                [ANGLES, network],
            )
            for name, kernel in (("ntk", nu.ntk), ("nngp", nu.nngp)):
                expected = kernel(points[:1], points, **options_of(network))[0]
                assert_close([K[name] for K in found], expected, f"{name} {network}")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_kernels_on_the_line(visit, activation):
    x = [-2.0, -1e-9, 0.0, 1e-9, 0.5, 0.5 + 1e-9, 2.0]
    network = dict(depth=3, activation=activation, weightStd=1.0, biasStd=0.5)
    found = computed(
        visit(NUMBERS),
        "(k, [x, network]) => x.map(a => x.map(b => k.kernels(k.line(a, b), network)))",
        [x, network],
    )
    for name, kernel in (("ntk", nu.ntk), ("nngp", nu.nngp)):
        expected = kernel(tensor(x)[:, None], **options_of(network))
        assert_close([[K[name] for K in row] for row in found], expected, name)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_correlation_map(visit, activation):
    xi = [-1.0, -0.999999, -0.5, 0.0, 0.3, 0.999999, 1.0]
    found = computed(
        visit(NUMBERS),
        """(k, [xi, activation]) =>
            xi.map(x => k.correlationMap(x, { activation, weightStd: 0.8, biasStd: 0.6 }))""",
        [xi, activation],
    )
    assert_close(found, 0.64 * nu.activations.get(activation).dual(tensor(xi)) + 0.36, activation)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    "x",
    [[0.7], [-1.5, -0.7, 0.2, 1.1, 1.9], [-1.0, 0.5, 0.5 + 1e-9, 1.0], [-1.0, 0.5, 0.5, 0.0, 2.0]],
    ids=["one", "apart", "nearly coincident", "coincident"],
)
def test_trained_ensembles(visit, activation, x):
    page = visit(NUMBERS)
    y, at = [1.0, -1.2, 0.4, 0.8, -0.3][: len(x)], torch.linspace(-2, 2, 33).tolist() + x
    for depth in (1, 5):
        for time in (0.001, 0.1, 1.0, 30.0, 1000.0):
            network = dict(depth=depth, activation=activation, biasStd=0.5)
            found = computed(page, "(k, a) => k.trainedEnsemble(...a)", [x, y, at, time, network])
            points, columns = tensor(at)[:, None], options_of(network)
            law = nu.trained_ensemble(tensor(x)[:, None], tensor(y), points, time, **columns)
            prior = nu.nngp(points, **columns).diagonal()
            assert_close(found["mean"], law.mean, f"mean {network} t={time}")
            # the variance is a difference of terms as large as the prior's
            variance = law.covariance.diagonal()
            assert_close(found["variance"], variance, f"variance {network} t={time}", prior.max())
            sure = variance > 1e-4 * prior  # elsewhere a root multiplies the rounding
            sd = tensor(found["variance"]).clamp(min=0).sqrt()
            errors = (sd - variance.clamp(min=0).sqrt()).abs() / prior.sqrt().max()
            assert (errors[sure] < BOUND).all(), f"sd {network} t={time}"


def test_eigenvectors(visit):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    matrix = a @ a.T
    found = computed(visit(NUMBERS), "(k, matrix) => k.eigen(matrix)", matrix.tolist())
    values, vectors = (tensor(found[name]) for name in ("values", "vectors"))
    assert_close((vectors.T @ (values[:, None] * vectors)).tolist(), matrix, "V diag V^T")
    assert_close((vectors @ vectors.T).tolist(), torch.eye(12, dtype=torch.float64), "orthonormal")


def test_draws_are_those_of_the_formula(visit):
    """K_k - K over its predicted standard deviation: mean 0 and mean square 1, within 4.5 errors."""
    angles = [0.0, 1.0, 2.5]
    for width in (4, 64, 4096):
        found = computed(
            visit(NUMBERS),
            """(k, [angles, width]) => Array.from({ length: 400 }, (_, seed) =>
                k.finiteKernel(k.drawNeurons(seed, width), width, angles))""",
            [angles, width],
        )
        law = computed(visit(NUMBERS), "(k, angles) => angles.map(k.limitAndVariance)", angles)
        limit, variance = (tensor([at[name] for at in law]) for name in ("limit", "variance"))
        z = (tensor(found) - limit) / (variance / width).sqrt()
        for values, mean in ((z, 0.0), (z**2, 1.0)):
            error = values.std(0) / math.sqrt(len(z))
            assert ((values.mean(0) - mean).abs() < 4.5 * error).all(), f"width {width}"
        if width == 4096:  # nearly normal: 95.4 % within two standard deviations
            inside = (z.abs() < 2).double().mean(0)
            assert ((inside - 0.954).abs() < 4.5 * math.sqrt(0.954 * 0.046 / len(z))).all(), inside


# ---- What is on the pages --------------------------------------------------------------------


def second_moment(xi):
    """E[Z²] of one ReLU unit, by quadrature."""
    phi = nu.activations.relu
    parts = (
        (1, lambda z: phi(z) ** 2),
        (2 * xi, lambda z: phi(z) * phi.derivative(z)),
        (3 * xi**2, lambda z: phi.derivative(z) ** 2),
    )
    made = nu.activations.from_function
    return sum(c * made(f, kinks=(0.0,), name="f", normalise=False).dual(xi) for c, f in parts)


def test_widening(figure):
    page = figure("widen")
    some = slice(0, None, 10)  # of the angles: quadrature is slow
    M2 = second_moment(tensor(drawn(page)["angles"][some]).cos())
    for seed in (3, 4):
        for power, width in ((2, 4), (6, 64), (12, 4096)):
            slide(page, "Hidden units", power)
            shown = drawn(page)
            assert (shown["width"], shown["seed"]) == (width, seed)
            model = nu.MLP(2, width, 1, dtype=torch.float64)
            weights = {name: tensor(values)[:width] for name, values in shown["neurons"].items()}
            with torch.no_grad():
                model.w[0].copy_(torch.stack([weights["in1"], weights["in2"]], dim=1))
                model.w[1].copy_(weights["out"][None])
            angles = shown["angles"]
            expected = nu.empirical_ntk(model, circle([0.0]), circle(angles))[0]
            assert_close(shown["finite"], expected, f"K_k, width {width}")
            K = nu.ntk(circle([0.0]), circle(angles), depth=1)[0]
            assert_close(shown["limit"], K, "K_infinity")
            # as variances: near opposite inputs a root would multiply the quadrature's rounding
            squared = [twice**2 for twice in shown["twice"][some]]
            assert_close(squared, 4 * (M2 - K[some] ** 2) / width, "band, squared")
            inside = (expected - K).abs() <= tensor(shown["twice"]) + 1e-12
            assert inside.double().mean() > 0.7, f"width {width}"  # one network's errors go together
        page.get_by_role("button", name="Draw a new network").click()


def test_depth_and_activation(figure):
    page = figure("depth")
    for activation, (depth, bias) in itertools.product(ACTIVATIONS, [(0, 0), (3, 0), (20, 0.43)]):
        page.get_by_role("combobox", name="Activation").select_option(activation)
        slide(page, "Hidden layers", depth)
        slide(page, "Bias σb", bias)
        shown = drawn(page)
        options = options_of(shown["network"])
        assert (options["activation"], options["depth"], options["bias_std"]) == (activation, depth, bias)
        assert abs(options["weight_std"] ** 2 + bias**2 - 1) < 1e-15
        zero, points, pair = circle([0.0]), circle(shown["angles"]), circle([2.0])
        assert_close(shown["ntk"], nu.ntk(zero, points, **options)[0], f"ntk {options}")
        assert_close(shown["nngp"], nu.nngp(zero, points, **options)[0], f"nngp {options}")
        walk = [nu.nngp(zero, pair, **{**options, "depth": l}).item() for l in range(depth + 1)]
        assert_close(shown["correlations"], walk, f"staircase {options}")


def assert_is_the_ensemble(shown):
    points = tensor(shown["at"])[:, None]
    network = options_of(shown["network"])
    x, y = tensor(shown["x"]), tensor(shown["y"])
    law = nu.trained_ensemble(x[:, None], y, points, shown["time"], **network)
    assert_close(shown["mean"], law.mean, "mean")
    prior = nu.nngp(points, **network).diagonal().max()
    assert_close(shown["variance"], law.covariance.diagonal(), "variance", prior)


def centre(page, point):
    box = page.locator(".living-point").nth(point).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def assert_moved(page, before, point, right, up):
    shown = drawn(page)
    moved = [b - a for name in "xy" for a, b in zip(before[name], shown[name], strict=True) if a != b]
    assert len(moved) == 2 and moved[0] * right > 0 and moved[1] * up > 0, moved
    assert shown["mean"] != before["mean"]
    assert shown["x"][point] == before["x"][point] + moved[0]
    assert_is_the_ensemble(shown)
    return shown


def test_drag_starts_as_its_picture(figure):
    shown = drawn(figure("drag"))
    assert list(zip(shown["x"], shown["y"], strict=True)) == list(drag_picture.DATA)
    assert shown["time"] == drag_picture.TIME
    assert options_of(shown["network"]) == drag_picture.NETWORK
    assert_is_the_ensemble(shown)


def test_drag_by_mouse(figure):
    page = figure("drag")
    before, (x, y) = drawn(page), centre(page, 2)
    page.mouse.move(x + 3, y - 2)
    page.mouse.down()
    page.mouse.move(x + 3, y - 2)
    assert drawn(page)["x"] == pytest.approx(
        before["x"], rel=1e-6, abs=0
    )  # it does not jump when it is taken
    page.mouse.move(x + 43, y - 62, steps=5)
    page.mouse.up()
    assert_moved(page, before, 2, 1, 1)
    page.mouse.move(x, y)
    assert drawn(page)["x"] != before["x"]  # and stays when it is let go


def test_drag_by_touch(figure):
    page = figure("drag", has_touch=True, is_mobile=True, viewport={"width": 390, "height": 844})
    before, (x, y), scrolled = drawn(page), centre(page, 1), page.evaluate("scrollY")
    hand = page.context.new_cdp_session(page)

    def touch(kind, *points):
        touches = [{"x": px, "y": py} for px, py in points]
        hand.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})

    touch("touchStart", (x, y))
    for i in range(1, 6):
        touch("touchMove", (x + 6 * i, y + 8 * i))
    touch("touchEnd")
    assert_moved(page, before, 1, 1, -1)
    assert page.evaluate("scrollY") == scrolled


def test_drag_by_keyboard(figure):
    page = figure("drag")
    handle = page.get_by_role("slider", name="Data point 4")
    handle.focus()
    before = drawn(page)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    shown = assert_moved(page, before, 3, 1, 1)
    assert abs(shown["x"][3] - 1.35) < 1e-12 and abs(shown["y"][3] + 1.15) < 1e-12
    assert handle.get_attribute("aria-valuetext") == "x 1.35, y \N{MINUS SIGN}1.15"
    page.keyboard.press("Shift+ArrowLeft")
    assert abs(drawn(page)["x"][3] - 1.1) < 1e-12
    page.keyboard.press("Delete")
    shown = drawn(page)
    assert len(shown["x"]) == 3 and shown["x"] == before["x"][:3]
    assert_is_the_ensemble(shown)
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Data point 3"


def test_points_come_and_go(figure):
    page = figure("drag")
    add, remove = (page.get_by_role("button", name=name) for name in ("Add", "Remove"))
    x, y = centre(page, 0)
    page.mouse.click(x + 60, y + 30)
    shown = drawn(page)
    assert len(shown["x"]) == 5 and shown["x"][4] > shown["x"][0] and shown["y"][4] < shown["y"][0]
    assert_is_the_ensemble(shown)
    while add.is_enabled():
        add.focus()
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.getAttribute('role')") == "slider"
    assert_is_the_ensemble(drawn(page))
    page.mouse.click(x + 60, y - 60)
    assert len(drawn(page)["x"]) == 12
    while remove.is_enabled():
        remove.click()
    shown = drawn(page)
    assert len(shown["x"]) == 1
    assert page.evaluate("document.activeElement.getAttribute('role')") == "slider"
    page.keyboard.press("Delete")
    assert len(drawn(page)["x"]) == 1
    assert_is_the_ensemble(shown)


def test_training_time_and_network(figure):
    page = figure("drag")
    for power, depth, activation in ((-3, 1, "relu"), (0, 5, "erf"), (3, 3, "gelu")):
        slide(page, "Training time", power)
        slide(page, "Hidden layers", depth)
        page.get_by_role("combobox", name="Activation").select_option(activation)
        shown = drawn(page)
        assert shown["time"] == pytest.approx(10**power, rel=1e-6, abs=0)
        assert (shown["network"]["depth"], shown["network"]["activation"]) == (depth, activation)
        assert_is_the_ensemble(shown)


# ---- Speed, and readers of every kind --------------------------------------------------------

# From a change to the frame that shows it, layout and painting included, sixty times.
TIMED = """async (change) => {
    const times = [];
    for (let i = 0; i < 60; i++) {
        const start = performance.now();
        change(document.querySelector(".living"), i);
        await new Promise((done) => requestAnimationFrame(() => {
            const { port1, port2 } = new MessageChannel();
            port1.onmessage = done;
            port2.postMessage(0);
        }));
        times.push(performance.now() - start);
    }
    return times.sort((a, b) => a - b);
}"""
SLIDER = """(root, i) => {
    const input = root.querySelectorAll("input")[%d];
    input.value = %s;
    input.dispatchEvent(new Event("input"));
}"""
CHANGES = {
    "widen": SLIDER % (0, "i % 2 ? 12 : 11.75"),
    "depth": SLIDER % (2, "i / 70"),  # of 20 layers
    "drag": """(root, i) => root.querySelector(".living-handle").dispatchEvent(
        new KeyboardEvent("keydown", { key: i % 2 ? "ArrowUp" : "ArrowDown", bubbles: true }))""",
}


@pytest.mark.parametrize("name", PAGES)
def test_frames(figure, name, record_property):
    page = figure(name)
    if name != "widen":
        page.get_by_role("combobox", name="Activation").select_option("gelu")
        slide(page, "Hidden layers", 20 if name == "depth" else 5)
    if name == "drag":
        while (add := page.get_by_role("button", name="Add")).is_enabled():
            add.click()
    times = page.evaluate(TIMED.replace("change(", f"({CHANGES[name]})(", 1).replace("(change)", "()"))
    median, nearly_all = times[len(times) // 2], times[int(0.95 * len(times))]
    record_property("frame", f"{median:.1f} ms, 95 % in {nearly_all:.1f} ms")
    print(f"{name}: median frame {median:.1f} ms, 95 % within {nearly_all:.1f} ms")
    assert median < FRAME


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", PAGES)
def test_accessible(figure, name, view, scheme):
    page = figure(name, viewport=VIEWS[view], color_scheme=scheme)
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    assert page.locator(".living svg").count()  # axe has something to look at
    problems = axe_problems(page, context=".living")
    assert not problems, problems
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(overflow) <= 0
    box, figure_box = (page.locator(at).bounding_box() for at in (".living", "figure:has(> .living)"))
    assert box["width"] <= figure_box["width"] + 1


def test_rests_are_announced(figure):
    page = figure("widen")
    assert page.locator(".living-status").text_content() == ""
    slide(page, "Hidden units", 12)
    page.locator(".living-status", has_text="4,096 units").wait_for(state="attached")


@pytest.mark.parametrize("name", PAGES)
def test_picture_without_scripts_and_in_print(visit, figure, name):
    still = visit(PAGES[name], java_script_enabled=False).locator(f"img.living-{name}")
    assert still.is_visible() and len(still.get_attribute("alt")) > 80
    page = figure(name)
    assert not page.locator(f"img.living-{name}").is_visible()
    page.emulate_media(media="print")
    assert page.locator(f"img.living-{name}").is_visible()
    assert not page.locator(".living").is_visible()


def test_other_pages_load_nothing(visit):
    page = visit("chapters/notation.html")
    page.wait_for_load_state("networkidle")
    living = {url.partition("/living/")[2].partition("?")[0] for url in page.requests if "/living/" in url}
    assert living == {"loader.js"}


def test_picture_is_current(tmp_path):
    """The stored picture is what its script draws, but for rounding in the last digits."""
    drag_picture.draw(tmp_path / "drag.svg")
    number = re.compile(r"-?\d+\.\d+")
    old, new = (path.read_text() for path in (drag_picture.PICTURE, tmp_path / "drag.svg"))
    assert number.sub("", old) == number.sub("", new)
    old, new = (tensor([float(n) for n in number.findall(text)]) for text in (old, new))
    assert (old - new).abs().max() < 1e-3

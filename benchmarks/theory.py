"""How the bounds of Section 4 grow with k and D_h, how far the greedy ones lie below the best, and what they cost.

    uv run benchmarks/theory.py [--data mnist] [--first 3 --second 8] [--plot FILE]

Growth is that of the log-odds over those of the bare image, on a black background, of models fitted to the training
images of two classes, and of models whose weights are all positive, as Section 4.4 assumes; exponents are fitted on
log-log axes. The distance from the best is measured by brute force on small random models. It prints its rows.
"""

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from report import table

from sfi_ray.comparison import fit_pair
from sfi_ray.data import DatasetSpec
from sfi_ray.theory import HiddenLayerModel, LinearModel, QuadraticModel, best_images, fit_growth, greedy_images

KS = np.arange(1, 51)
WIDTHS = (16, 32, 64, 128, 256, 512)
CLAIMS = {"linear": "O(k)", "hidden": "O(D_h k)", "kernel": "O(k^2)"}


def gains(model, ks):
    """Log-odds over those of the bare image, on black."""
    if isinstance(model, LinearModel):
        found = best_images(model, [0, *ks], background=0.0).log_odds
    else:
        found = greedy_images(model, [0, *ks]).log_odds
    return found[1:] - found[0]


def positive_models(num_pixels):
    """Models of the kind that Section 4.4 speaks of: every weight is above 0."""
    generator = np.random.default_rng(0)

    def drawn(*shape):
        return 0.5 + generator.random(shape)

    return {
        "linear": LinearModel(drawn(num_pixels)),
        "hidden": HiddenLayerModel(drawn(64, num_pixels), np.zeros(64), drawn(64)),
        "kernel": QuadraticModel(drawn(20, num_pixels), drawn(20)),
    }


def growth_rows(options):
    spec = DatasetSpec(name=options.data)
    fitted = {kind: fit_pair(spec, kind, options.first, options.second, hidden_units=512, seed=0) for kind in CLAIMS}
    num_pixels = fitted["linear"].model.num_pixels
    curves = {}
    for name, models in (
        (f"{options.data}, {options.first} against {options.second}", {k: pair.model for k, pair in fitted.items()}),
        ("all weights positive", positive_models(num_pixels)),
    ):
        for kind, model in models.items():
            started = time.perf_counter()
            gained = gains(model, KS)
            seconds = time.perf_counter() - started
            curves[name, kind] = gained
            growth, start = fit_growth(KS, gained), fit_growth(KS[:10], gained[:10])
            yield (
                {
                    "model": kind,
                    "weights": name,
                    "claimed": CLAIMS[kind],
                    "exponent of k, 1 to 50": f"{growth.exponent:.2f}",
                    "R^2": f"{growth.r_squared:.3f}",
                    "1 to 10": f"{start.exponent:.2f}",
                    "seconds for k = 1..50": f"{seconds:.2f}",
                },
                curves,
            )


def width_rows(options):
    spec = DatasetSpec(name=options.data)
    generator = np.random.default_rng(1)
    bounds = {"fitted": [], "all weights positive": []}
    for width in WIDTHS:
        pair = fit_pair(spec, "hidden", options.first, options.second, hidden_units=width, seed=0)
        num_pixels = pair.model.num_pixels
        positive = HiddenLayerModel(
            0.5 + generator.random((width, num_pixels)), np.zeros(width), 0.5 + generator.random(width)
        )
        for name, model in (("fitted", pair.model), ("all weights positive", positive)):
            bounds[name].append(gains(model, [1, 5, 20]))
    for name, rows in bounds.items():
        for k, values in zip((1, 5, 20), np.array(rows).T, strict=True):
            growth = fit_growth(WIDTHS, values)
            yield (
                {
                    "weights": name,
                    "k": k,
                    **{f"D_h = {width}": f"{value:.1f}" for width, value in zip(WIDTHS, values, strict=True)},
                    "exponent of D_h": f"{growth.exponent:.2f}",
                    "R^2": f"{growth.r_squared:.3f}",
                },
                bounds,
            )


def best_of_corners(model, k):
    """The best of all images with at most k white pixels on black."""
    images = [np.zeros(model.num_pixels)]
    for size in range(1, k + 1):
        for support in itertools.combinations(range(model.num_pixels), size):
            image = np.zeros(model.num_pixels)
            image[list(support)] = 1.0
            images.append(image)
    return model.log_odds(images).max()


def distance_rows(num_models=200, num_pixels=12):
    generator = np.random.default_rng(2)
    for name, make in (
        (
            "one hidden layer, D_h = 8",
            lambda: HiddenLayerModel(
                generator.normal(size=(8, num_pixels)), generator.normal(size=8), generator.normal(size=8)
            ),
        ),
        (
            "kernel, 6 support vectors",
            lambda: QuadraticModel(generator.normal(size=(6, num_pixels)), generator.normal(size=6)),
        ),
    ):
        models = [make() for _ in range(num_models)]
        for k in (2, 3, 5):
            shares = []
            for model in models:
                bare, greedy = greedy_images(model, [0, k]).log_odds
                best = best_of_corners(model, k)
                shares.append(1.0 if best <= bare else (greedy - bare) / (best - bare))
            yield {
                "random models": name,
                "k": k,
                "greedy is the best": f"{np.mean(np.array(shares) > 1 - 1e-9):.0%}",
                "share of the best gain, mean": f"{np.mean(shares):.1%}",
                "lowest": f"{np.min(shares):.1%}",
            }


def plot(curves, widths, path):
    figure = Figure(figsize=(11, 4), layout="constrained", facecolor="white")
    axes = figure.subplots(1, 3)
    colours = {"linear": "#000000", "hidden": "#0072B2", "kernel": "#D55E00"}
    for panel, name in zip(axes, dict.fromkeys(name for name, _ in curves), strict=False):
        for kind, colour in colours.items():
            values = curves[name, kind]
            growth = fit_growth(KS, values)
            label = f"{kind}: k^{growth.exponent:.2f}, claimed {CLAIMS[kind]}"
            panel.loglog(KS, values, color=colour, label=label, linewidth=1.8)
            panel.loglog(KS, growth.factor * KS**growth.exponent, color=colour, linewidth=0.8, linestyle=":")
        panel.set(title=name, xlabel="k", ylabel="log-odds gained over the bare image")
    for (name, rows), marker, dash in zip(widths.items(), "os", "-:", strict=True):
        for k, values, colour in zip((1, 5, 20), np.array(rows).T, ("#56B4E9", "#009E73", "#CC79A7"), strict=True):
            label = f"{name}, k = {k}: D_h^{fit_growth(WIDTHS, values).exponent:.2f}"
            style = {"color": colour, "marker": marker, "linestyle": dash, "markersize": 4, "linewidth": 1}
            axes[2].loglog(WIDTHS, values, label=label, **style)
    axes[2].set(title="one hidden layer", xlabel="D_h", ylim=(1, 1e7))
    axes[2].set_xticks(WIDTHS, [str(width) for width in WIDTHS])
    axes[2].xaxis.set_minor_locator(NullLocator())
    for panel in axes:
        panel.grid(which="both", color="#e5e5e5", linewidth=0.5)
        panel.legend(frameon=False, fontsize=7.5)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=140)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--first", default="3")
    parser.add_argument("--second", default="8")
    parser.add_argument("--plot", type=Path, help="PNG of the growth")
    options = parser.parse_args()
    torch.set_num_threads(1)
    growth = list(growth_rows(options))
    print("\n".join(table([row for row, _ in growth])), flush=True)
    widths = list(width_rows(options))
    print("\n".join(["", *table([row for row, _ in widths])]), flush=True)
    if options.plot:
        plot(growth[-1][1], widths[-1][1], options.plot)
    print("\n".join(["", *table(list(distance_rows()))]))


if __name__ == "__main__":
    main()

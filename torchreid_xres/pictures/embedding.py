"""Features on a plane: t-SNE, coloured by identity, marked by rate."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from torchreid_xres.comparison.figures import MARKERS, new_figure
from torchreid_xres.features.features import FeatureSet
from torchreid_xres.terminal import printable


class Embedding(NamedTuple):
    """Points on a plane.

    Attributes:
        points: (N, 2).
        pid: (N,) identities.
        rate: (N,) rates; 1 = as captured.
        low: (N,) bool, low resolution, by the protocol or by nature.
        about: what they are the features of.
    """

    points: np.ndarray
    pid: np.ndarray
    rate: np.ndarray
    low: np.ndarray
    about: str


def embed(
    sets: Sequence[FeatureSet], identities: int = 10, metric: str = "cosine", perplexity: float = 30.0, seed: int = 0
) -> Embedding:
    """Bring the features of some identities to a plane by t-SNE.

    L. van der Maaten, G. Hinton, "Visualizing Data using t-SNE", JMLR 2008; scikit-learn's.

    Args:
        sets: queries and gallery by one model; identities are drawn from those that are in all of them.
        identities: at most so many.
        metric: ``cosine`` or ``euclidean``.
        perplexity: about how many neighbours a point has, at most a third of the points.
        seed: of the identities drawn and of t-SNE.

    Raises:
        ImportError: without scikit-learn.
        ValueError: for less than one identity, if the sets share none, or there are less than 4 points.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise ImportError("t-SNE needs scikit-learn: pip install 'torchreid_xres[report]'") from error
    if identities < 1:
        raise ValueError(f"at least 1 identity is shown, not {identities}")
    pids = sorted(set.intersection(*(set(part.pid.tolist()) for part in sets)))
    if not pids:
        raise ValueError(f"no identity is in all of {', '.join(part.role for part in sets)}")
    chosen = np.random.default_rng(seed).permutation(pids)[:identities]
    kept = [np.flatnonzero(np.isin(part.pid, chosen)) for part in sets]
    features = np.concatenate([part.features.numpy()[rows] for part, rows in zip(sets, kept, strict=True)])
    if len(features) < 4:
        raise ValueError(f"{len(features)} images of {len(chosen)} identities are too few for a plane")
    pid, rate, low = (
        np.concatenate([getattr(part, key)[rows] for part, rows in zip(sets, kept, strict=True)])
        for key in ("pid", "rate", "low")
    )
    method = TSNE(
        metric=metric, init="pca", learning_rate="auto", perplexity=min(perplexity, len(features) / 3),
        random_state=seed,
    )  # fmt: skip
    return Embedding(method.fit_transform(features), pid, rate, low, f"{sets[0].model} on {sets[0].dataset}")


def draw_embedding(embedding: Embedding) -> Any:
    """Draw the points: a colour for each identity, a marker for each rate.

    Args:
        embedding: of at most 20 identities; more share colours.

    Returns:
        A Matplotlib figure.

    Raises:
        ImportError: without Matplotlib.
    """
    figure = new_figure(9, 6.5)
    import matplotlib

    axes = figure.subplots()
    colours = matplotlib.colormaps["tab20"].colors
    identities = np.unique(embedding.pid).tolist()
    kinds = sorted(set(zip(embedding.low.tolist(), embedding.rate.tolist(), strict=True)))
    marked = list(zip(kinds, itertools.cycle(MARKERS), strict=False))
    for (low, rate), marker in marked:
        rows = (embedding.low == low) & (embedding.rate == rate)
        tones = [colours[identities.index(pid) % len(colours)] for pid in embedding.pid[rows].tolist()]
        axes.scatter(
            *embedding.points[rows].T, c=tones, marker=marker, s=42, linewidths=0.6, edgecolors="black", alpha=0.9
        )
    handles = [
        matplotlib.lines.Line2D([], [], linestyle="", marker=marker, color="grey", label=_named(*kind))
        for kind, marker in marked
    ]
    rates = axes.legend(handles=handles, title="resolution", loc="upper left", bbox_to_anchor=(1.01, 1))
    axes.add_artist(rates)
    people = [
        matplotlib.lines.Line2D([], [], linestyle="", marker="o", color=colours[i % len(colours)], label=str(pid))
        for i, pid in enumerate(identities)
    ]
    axes.legend(handles=people, title="identity", loc="lower left", bbox_to_anchor=(1.01, 0), ncols=2)
    axes.set(xticks=[], yticks=[], title=printable(f"t-SNE of the features of {embedding.about}"))
    return figure


def _named(low: bool, rate: float) -> str:
    if low and rate == 1:
        return "low by nature"
    return f"x{rate:g}" if low else "as captured"

"""Ridge regression on features and all their products: the floor for any model.

Fitted to the train split of a collection, the penalty chosen on its validation split.
"""

from __future__ import annotations

import dataclasses

import numpy as np

PENALTIES = np.geomspace(1e-4, 10, 26)
"""Of the squared weights, per clip."""
FARTHEST = 4.0
"""Standard deviations beyond which a feature is clipped, before products are taken."""


@dataclasses.dataclass(frozen=True)
class Ridge:
    """A fitted regression."""

    centre: np.ndarray
    """[K]: means of the features."""
    scale: np.ndarray
    """[K]: their standard deviations."""
    product_centre: np.ndarray
    """[K + K (K + 1) / 2]: means of `products`."""
    product_scale: np.ndarray
    """Their standard deviations."""
    weights: np.ndarray
    """Of the standardised products."""
    intercept: float
    penalty: float
    """What the weights were fitted with."""

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Scores [N] within 1 to 5, of features [N, K]."""
        x = products((features - self.centre) / self.scale)
        x = (x - self.product_centre) / self.product_scale
        return np.clip(x @ self.weights + self.intercept, 1, 5)


def products(x: np.ndarray) -> np.ndarray:
    """Standardised features [N, K], clipped, and all products of two: [N, K + K (K + 1) / 2]."""
    x = np.clip(x, -FARTHEST, FARTHEST)
    first, second = np.triu_indices(x.shape[1])
    return np.concatenate([x, x[:, first] * x[:, second]], axis=1)


def fit_ridge(x: np.ndarray, y: np.ndarray, penalty: float) -> Ridge:
    """argmin_w mean((y - mean(y) - X w)^2) + penalty |w|^2, X the standardised `products` of x.

    Args:
      x: features [N, K].
      y: scores [N].
      penalty: above 0.
    """
    centre, scale = x.mean(0), _spread(x)
    expanded = products((x - centre) / scale)
    product_centre, product_scale = expanded.mean(0), _spread(expanded)
    design = (expanded - product_centre) / product_scale
    gram = design.T @ design / len(y) + penalty * np.eye(design.shape[1])
    weights = np.linalg.solve(gram, design.T @ (y - y.mean()) / len(y))
    return Ridge(centre, scale, product_centre, product_scale, weights, float(y.mean()), penalty)


def choose_ridge(
    train: tuple[np.ndarray, np.ndarray], validation: tuple[np.ndarray, np.ndarray]
) -> Ridge:
    """The fit to the train split whose penalty gives the least squared error on the other."""
    fits = [fit_ridge(*train, penalty) for penalty in PENALTIES.tolist()]
    x, y = validation
    return min(fits, key=lambda fit: float(np.square(fit(x) - y).mean()))


def _spread(x: np.ndarray) -> np.ndarray:
    """Standard deviations, 1 where a column is constant."""
    deviation = x.std(0)
    return np.where(deviation > 1e-9, deviation, 1.0)

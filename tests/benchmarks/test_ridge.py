"""Least squares with a penalty, and how the penalty is chosen."""

import numpy as np

from benchmarks.ridge import choose_ridge, fit_ridge, products


def test_products_by_hand():
    found = products(np.array([[2.0, -9.0, 3.0]]))
    # -9 is clipped to -4.
    assert found.tolist() == [[2, -4, 3, 4, -8, 6, 16, -12, 9]]


def test_ridge_finds_a_product_and_shrinks_with_the_penalty():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(300, 4))
    y = 3 + 0.4 * x[:, 1] * x[:, 2]
    fit = fit_ridge(x, y, 1e-6)
    centred = np.abs(fit(x) - np.clip(y, 1, 5))
    assert centred.max() < 0.3 and centred.mean() < 0.02
    assert np.square(fit_ridge(x, y, 10.0).weights).sum() < 0.1 * np.square(fit.weights).sum()


def test_ridge_solves_its_normal_equation():
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(23, 3)), rng.normal(size=23)
    fit = fit_ridge(x, y, 0.7)
    design = products((x - fit.centre) / fit.scale)
    design = (design - fit.product_centre) / fit.product_scale
    slope = design.T @ (design @ fit.weights + y.mean() - y) / 23 + 0.7 * fit.weights
    assert np.abs(slope).max() < 1e-12


def test_penalty_is_chosen_on_the_validation_split():
    rng = np.random.default_rng(7)
    x, pure_noise = rng.normal(size=(40, 5)), rng.normal(size=40)
    train, validation = (x, 3 + pure_noise), (rng.normal(size=(30, 5)), np.full(30, 3.0))
    assert choose_ridge(train, validation).penalty == 10
    wanted = 3 + 0.5 * x[:, 0]
    assert choose_ridge((x, wanted), (x, wanted)).penalty < 0.01

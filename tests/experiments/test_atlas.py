"""The formulas of the atlas against independent ones, and a tiny run of each entry."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from scipy import linalg, optimize, stats
from scipy.sparse import csgraph
from sklearn.decomposition import PCA
from sklearn.metrics import jaccard_score, roc_auc_score
from torch import Tensor, nn

from experiments import configs
from experiments.demos.atlas import (
    ENTRIES,
    certified,
    collapse,
    demonstration,
    distilled,
    double_descent,
    graphs,
    hyperbolic,
    local_attention,
    outliers,
    pruned,
    pyramid,
    robust,
    segmenter,
    shared,
    smoothness,
    spd,
)  # fmt: skip
from experiments.demos.atlas.atlas_run import Atlas
from experiments.demos.atlas.shared import Scale
from experiments.sweep import Outcome
from experiments.tasks.recipe import Data

pytestmark = pytest.mark.usefixtures("seeded_zero")
CPU = torch.device("cpu")
TINY = Scale(Data("digits", train=200, validation=360, test=60), updates=4, width=8, items=16)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def positive(count: int, n: int = 3) -> Tensor:
    x = normal(count, n, n)
    return x @ x.mT + 0.5 * torch.eye(n, dtype=torch.float64)


def sqrtm(x: Tensor | np.ndarray) -> np.ndarray:
    return np.real(linalg.sqrtm(np.asarray(x)))


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_tiny_run_gives_what_the_effects_compare_and_gives_it_twice(entry: str) -> None:
    run = Atlas(entry, entry, TINY, seed=3)
    before = torch.random.get_rng_state()
    outcome = run.execute(CPU)
    assert outcome.status == "ok"
    assert torch.equal(torch.random.get_rng_state(), before)
    for effect in configs.module("atlas").EFFECTS[entry]:
        assert {effect.plus, effect.minus} - {""} <= outcome.metrics.keys()
    if entry in ("segmenter", "double_descent"):  # one with data of its own, one with images
        assert run.execute(CPU) == outcome
        assert replace(run, seed=4).execute(CPU) != outcome


def test_what_is_not_finite_has_diverged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmenter, "demonstrate", lambda *_: {"a": 1.0, "b": float("nan")})
    found = Atlas("segmenter", "segmenter", TINY).execute(CPU)
    assert (found.status, found.reason) == ("diverged", "not finite: b")
    assert isinstance(found, Outcome)


def test_parameters_that_are_not_finite_have_diverged(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(2, 1)
    with pytest.raises(FloatingPointError, match="parameters of Linear are not finite after 3 updates"):
        shared.fit(model, lambda: model(torch.full((4, 2), torch.inf)).mean(), 3)
    monkeypatch.setattr(segmenter, "demonstrate", lambda *_: shared.fit(model, lambda: model.weight.sum(), 1))
    assert Atlas("segmenter", "segmenter", TINY).execute(CPU).status == "diverged"


def test_unknown_names_list_the_known() -> None:
    for call in (lambda: Atlas("x", "graph", TINY), lambda: demonstration("graph")):
        with pytest.raises(ValueError, match=r"entry='graph' is not known; use one of outliers, .*graphs"):
            call()
    with pytest.raises(ValueError, match=r"method='ln' is not known; use one of nf, bn, gn, none"):
        shared.layer("ln", 1, 4)
    with pytest.raises(ValueError, match=r"kind='fog' is not known; use one of noise, blur, contrast, bright"):
        shared.corrupt(torch.zeros(1, 1, 2, 2), "fog")


def test_every_entry_has_an_effect_and_a_cell_at_every_profile() -> None:
    assert tuple(configs.module("atlas").EFFECTS) == ENTRIES
    for profile in ("smoke", "small", "gpu", "paper"):
        assert [cell.method for cell in configs.sweep("atlas", profile).cells] == list(ENTRIES)


def test_scaled_linear_is_the_standardised_weight_times_its_gain() -> None:
    linear, x = shared.ScaledStdLinear(6, 4, gain=2.0), torch.randn(3, 6)
    weight = linear.weight.detach().numpy()
    centred = weight - weight.mean(1, keepdims=True)
    expected = x.numpy() @ (2 * centred / np.linalg.norm(centred, axis=1, keepdims=True)).T
    np.testing.assert_allclose(linear(x).detach().numpy(), expected, atol=1e-5)


# Outliers


def test_auroc_is_scikit_learn_s_with_ties() -> None:
    a, b = torch.randint(5, (30,)).float(), torch.randint(4, (20,)).float()
    expected = roc_auc_score([1] * 30 + [0] * 20, torch.cat((a, b)).numpy())
    assert outliers.auroc(a, b) == pytest.approx(expected)


def test_the_linear_autoencoder_is_probabilistic_pca() -> None:
    images = normal(200, 1, 2, 3) @ normal(3, 3)
    vae, pca = outliers.LinearVAE(images, 2), PCA(2, svd_solver="full").fit(images.flatten(1).numpy())
    assert float(vae.variance) == pytest.approx(pca.noise_variance_)
    covariance = pca.get_covariance()
    made = vae.decoder @ vae.decoder.T + vae.variance * torch.eye(6)
    np.testing.assert_allclose(made.numpy(), covariance, rtol=1e-6, atol=1e-6)
    centred = images.flatten(1).numpy() - pca.mean_
    expected = centred @ np.linalg.solve(covariance, vae.decoder.numpy())  # latents given images, both jointly normal
    np.testing.assert_allclose(vae.encode(images).numpy(), expected, rtol=1e-6, atol=1e-6)


def test_scores_are_means_over_an_image_s_patches_whatever_their_order() -> None:
    images = torch.randn(5, 1, 8, 8)
    cut = outliers.patches(images, 4)
    assert cut.shape == (5, 9, 1, 4, 4)
    assert torch.equal(cut[2, 5], images[2, :, 2:6, 4:8])
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))  # one that treats patches apart
    expected = torch.stack([model(patch).mean() for patch in cut])
    for order in (torch.arange(45), torch.randperm(45)):
        assert torch.allclose(outliers.scores(model, cut, order), expected, atol=1e-6)
    norm = nn.Sequential(nn.BatchNorm2d(1), model)
    own, mixed = (outliers.scores(norm, cut, order) for order in (torch.arange(45), torch.randperm(45)))
    assert torch.allclose(own, torch.stack([norm(patch).mean() for patch in cut]), atol=1e-6)
    assert not torch.allclose(own, mixed, atol=1e-3)


# Symmetric positive definite matrices


def test_means_of_two_matrices_are_the_closed_forms() -> None:
    a, b = positive(2)
    root = sqrtm(a)
    inverse = np.linalg.inv(root)
    geometric = root @ sqrtm(inverse @ b.numpy() @ inverse) @ root
    np.testing.assert_allclose(spd.affine_mean(torch.stack((a, b)), 30).numpy(), geometric, rtol=1e-6)
    product = sqrtm((a @ b).numpy())
    middle = (a.numpy() + b.numpy() + product + product.T) / 4
    np.testing.assert_allclose(spd.bures_mean(torch.stack((a, b)), 60).numpy(), middle, rtol=1e-6)


def test_means_of_matrices_that_commute_and_of_many() -> None:
    values, basis = 0.5 + torch.rand(6, 3, dtype=torch.float64), torch.linalg.qr(normal(3, 3))[0]
    x = basis @ torch.diag_embed(values) @ basis.T
    for found, expected in (
        (spd.affine_mean(x, 30), values.log().mean(0).exp()),
        (spd.bures_mean(x, 60), values.sqrt().mean(0) ** 2),
    ):
        assert torch.allclose(found, basis @ torch.diag(expected) @ basis.T)
    x = positive(5)
    root = sqrtm(spd.bures_mean(x, 60))
    np.testing.assert_allclose(np.mean([sqrtm(root @ m @ root) for m in x.numpy()], 0), root @ root, rtol=1e-6)
    inverse = np.linalg.inv(sqrtm(spd.affine_mean(x, 30)))
    logs = [np.real(linalg.logm(inverse @ m @ inverse)) for m in x.numpy()]
    np.testing.assert_allclose(np.mean(logs, 0), np.zeros((3, 3)), atol=1e-8)


def test_bures_maps_invert_each_other_and_keep_distance_and_angle() -> None:
    base, x = positive(1)[0], positive(4)
    tangent = spd.bures_log(base, x)
    assert torch.allclose(spd.bures_exp(base, tangent), x)
    root = sqrtm(base)
    for v, m in zip(tangent.numpy(), x.numpy()):
        distance = np.trace(base.numpy()) + np.trace(m) - 2 * np.trace(sqrtm(root @ m @ root))
        assert 0.5 * np.trace(v @ linalg.solve_sylvester(base.numpy(), base.numpy(), v)) == pytest.approx(distance)
    identity = torch.eye(3, dtype=torch.float64)
    moved = spd.bures_transport(base, identity, tangent)
    assert torch.allclose(spd.bures_transport(identity, base, moved), tangent)
    values, basis = np.linalg.eigh(base.numpy())
    factor = np.sqrt(2 / (values[:, None] + values))
    expected = [basis @ (factor * (basis.T @ v @ basis)) @ basis.T for v in tangent.numpy()]
    np.testing.assert_allclose(moved.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_bures_transport_is_the_ladder_of_small_geodesics() -> None:
    base, identity, steps = positive(1)[0], torch.eye(3, dtype=torch.float64), 200
    tangent = 1e-3 * spd.bures_log(base, positive(1))
    along, here, moved = spd.bures_log(base, identity), base, tangent
    for step in range(1, steps + 1):  # the pole ladder, of exponentials and logarithms alone
        there = spd.bures_exp(base, step / steps * along)
        middle = spd.bures_exp(base, (step - 0.5) / steps * along)
        tip = spd.bures_exp(here, moved)[0]
        moved = -spd.bures_log(there, spd.bures_exp(tip, 2 * spd.bures_log(tip, middle)[None]))
        here = there
    expected = spd.bures_transport(base, identity, tangent)
    np.testing.assert_allclose(moved.numpy(), expected.numpy(), rtol=1e-2, atol=1e-2 * float(expected.abs().max()))
    assert not torch.allclose(expected, tangent, rtol=0.05)


@pytest.mark.parametrize("metric", ["affine", "bures"])
def test_spd_batch_norm_centres_at_the_identity_with_the_scale_asked_for(metric: str) -> None:
    norm, x = spd.SPDBatchNorm(3, metric), positive(6)
    nn.init.constant_(norm.scale, 0.3)
    made = norm(x)
    mean = spd.affine_mean(made, 40) if metric == "affine" else spd.bures_mean(made, 60)
    assert torch.allclose(mean, torch.eye(3, dtype=torch.float64), atol=0.02)  # six steps of the fixed point
    eigenvalues = torch.linalg.eigvalsh(made)
    distance = eigenvalues.log().square().sum(1) if metric == "affine" else (1 - eigenvalues.sqrt()).square().sum(1)
    assert float(distance.mean().detach()) == pytest.approx(0.09, rel=0.02)
    assert float(norm.dispersion) != 1
    norm.eval()
    assert torch.allclose(norm(x[:2]), norm(x)[:2])


@pytest.mark.parametrize("metric", ["affine", "bures"])
def test_spd_batch_norm_has_the_right_derivatives_at_its_start(metric: str) -> None:
    norm, x = spd.SPDBatchNorm(2, metric), positive(3, 2)

    def through(x: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(norm, {"bias": bias}, (x + x.mT,))

    bias = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)  # equal eigenvalues: no trouble
    assert torch.autograd.gradcheck(through, (x.requires_grad_(), bias), atol=1e-4)
    assert torch.autograd.gradcheck(lambda y: spd.log(y + y.mT), (positive(2).requires_grad_(),))


def test_descriptors_are_covariances_of_pixels() -> None:
    image = torch.randn(1, 1, 5, 6)
    plain, (down, right) = image[0, 0].double().numpy(), np.gradient(image[0, 0].double().numpy())
    rows, columns = np.meshgrid(np.linspace(-1, 1, 5), np.linspace(-1, 1, 6), indexing="ij")
    second = np.gradient(down, axis=0), np.gradient(right, axis=1)
    features = np.stack([f.ravel() for f in (rows, columns, plain, down, right, *second)])
    expected = np.cov(features, bias=True) + 1e-4 * np.eye(7)
    np.testing.assert_allclose(spd.descriptors(image)[0].numpy(), expected, atol=1e-6)


# Hyperbolic space


def ball(count: int, features: int = 3) -> Tensor:
    x = normal(count, features)
    return 0.9 * torch.rand(count, 1, dtype=torch.float64) * x / x.norm(dim=1, keepdim=True)


def lorentz(x: Tensor) -> np.ndarray:
    squares = x.square().sum(1, keepdim=True)
    return torch.cat(((1 + squares) / (1 - squares), 2 * x / (1 - squares)), 1).numpy()


def test_maps_distance_and_transport_of_the_ball() -> None:
    x, y = ball(20), ball(20)
    assert torch.allclose(hyperbolic.exp(x, hyperbolic.log(x, y)), y)
    a, b = lorentz(x), lorentz(y)
    expected = np.arccosh(a[:, 0] * b[:, 0] - (a[:, 1:] * b[:, 1:]).sum(1))
    np.testing.assert_allclose(hyperbolic.distance(x, y)[:, 0].numpy(), expected, rtol=1e-6)
    tangent = hyperbolic.log(x, y)
    length = hyperbolic.conformal(x)[:, 0] * tangent.norm(dim=1)
    np.testing.assert_allclose(length.numpy(), expected, rtol=1e-6)
    moved = hyperbolic.transport(x, y, tangent)
    assert torch.allclose(hyperbolic.conformal(y)[:, 0] * moved.norm(dim=1), length)
    assert torch.allclose(moved, -hyperbolic.log(y, x))  # a geodesic's direction stays its own
    from_origin = hyperbolic.transport(torch.zeros_like(y), y, tangent)
    assert torch.allclose(from_origin, (1 - y.square().sum(1, keepdim=True)) * tangent)


def test_the_midpoint_is_the_centroid_of_the_hyperboloid() -> None:
    x = ball(9)
    total = lorentz(x).sum(0)
    total /= np.sqrt(total[0] ** 2 - (total[1:] ** 2).sum())
    np.testing.assert_allclose(hyperbolic.midpoint(x).numpy(), total[1:] / (1 + total[0]), rtol=1e-6)
    middle = hyperbolic.exp(x[0], hyperbolic.log(x[0], x[1]) / 2)
    assert torch.allclose(hyperbolic.midpoint(x[:2]), middle)
    assert torch.allclose(hyperbolic.frechet(x[:2], 30)[0], middle)


def test_the_frechet_mean_minimises_squared_distances_and_the_midpoint_agrees_to_third_order() -> None:
    x = ball(9)

    def squares(m: np.ndarray) -> float:
        return float(hyperbolic.distance(torch.from_numpy(m), x).square().sum())

    best = optimize.minimize(squares, np.zeros(3), tol=1e-12).x
    np.testing.assert_allclose(hyperbolic.frechet(x, 60)[0].numpy(), best, atol=1e-5)
    assert hyperbolic.agreement(torch.Generator().manual_seed(0))["order of agreement"] == pytest.approx(3, abs=0.1)


def test_the_midpoint_minimises_what_the_chapter_says_and_costs_less() -> None:
    x = ball(9)

    def lorentzian(m: np.ndarray) -> float:
        return float((hyperbolic.distance(torch.from_numpy(m), x).cosh() - 1).sum())

    best = optimize.minimize(lorentzian, np.zeros(3), tol=1e-12).x
    np.testing.assert_allclose(hyperbolic.midpoint(x).numpy(), best, atol=1e-5)
    found = hyperbolic.agreement(torch.Generator().manual_seed(0))
    assert found["cost ratio"] > found["passes of the Frechet mean"]
    with hyperbolic.Work() as work:
        (x + x) * 2
    assert work.numbers == 2 * x.numel()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_points_stay_inside_the_ball_and_have_finite_gradients(dtype: torch.dtype) -> None:
    far = (30 * torch.randn(16, 3, dtype=dtype)).requires_grad_()
    x = hyperbolic.exp(torch.zeros(3, dtype=dtype), far)
    assert float(x.detach().norm(dim=1).max()) <= 1 - 0.99 * hyperbolic.EDGE[dtype]
    for mean in ("midpoint", "frechet"):
        made = hyperbolic.PoincareBatchNorm(3, mean).to(dtype)(x)
        (grad,) = torch.autograd.grad(made.square().sum(), far, retain_graph=True)
        assert torch.isfinite(made).all()
        assert torch.isfinite(grad).all()
    near = ball(5).to(dtype)
    assert torch.equal(hyperbolic.inside(near), near)


def test_half_an_identity_starts_the_layer_as_the_identity() -> None:
    x = ball(5).float()
    assert torch.allclose(hyperbolic.PoincareLinear(3, identity=True)(x), x, atol=1e-5)


@pytest.mark.parametrize("mean", ["midpoint", "frechet"])
def test_poincare_batch_norm_centres_and_scales(mean: str) -> None:
    norm, x = hyperbolic.PoincareBatchNorm(3, mean).double(), ball(12)
    made = norm(x)
    assert float(hyperbolic.distance(torch.zeros(3).double(), made).square().mean()) == pytest.approx(1, rel=1e-4)
    assert hyperbolic.frechet(made, 60)[0].norm() < 0.5 * hyperbolic.frechet(x, 60)[0].norm() + 0.05
    nn.init.constant_(norm.bias, 0.1)
    assert torch.autograd.gradcheck(norm, (0.5 * ball(4).requires_grad_(),))


# A pyramid


def test_integrated_batch_norm_has_one_mean_and_variance_over_all_levels() -> None:
    plain = nn.BatchNorm2d(3).double()
    norm, maps = pyramid.Integrated(plain), [normal(2, 3, 4, 4), 2 + normal(2, 3, 2, 2)]
    values = np.concatenate([m.transpose(0, 1).reshape(3, -1).numpy() for m in maps], 1)
    mean, std = (f(values, axis=1)[None, :, None, None] for f in (np.mean, np.std))
    for made, m in zip(norm(maps), maps, strict=True):
        np.testing.assert_allclose(made.detach().numpy(), (m.numpy() - mean) / np.sqrt(std**2 + 1e-5), rtol=1e-6)
    np.testing.assert_allclose(plain.running_mean.numpy(), 0.1 * mean.ravel(), rtol=1e-6)
    assert torch.autograd.gradcheck(lambda *m: tuple(norm(m)), [m.requires_grad_() for m in maps])


def test_each_image_lies_whole_on_its_canvas() -> None:
    images = torch.rand(8, 1, 8, 8) + 1
    images[:, :, 0, 0] = 0
    made = pyramid.placed(images, torch.Generator().manual_seed(0))
    assert made.shape == (8, 1, 16, 16)
    sizes = [int((image[0] > 0.5).sum()) for image in made]
    assert {60 < size < 65 or size > 200 for size in sizes} == {True}
    assert len({size > 200 for size in sizes}) == 2


# Graphs


def test_attention_is_over_neighbours_only() -> None:
    q, k, v = (normal(1, 2, 5, 3) for _ in range(3))
    adjacency = torch.zeros(1, 5, 5)
    for i, j in ((0, 1), (1, 2), (0, 3)):  # node 4 is alone
        adjacency[0, i, j] = adjacency[0, j, i] = 1
    found = graphs.attention(q, k, v, adjacency)[0].numpy()
    for h, i in product(range(2), range(5)):
        near = [j for j in range(5) if adjacency[0, i, j]] or [i]
        weight = np.exp([float(q[0, h, i] @ k[0, h, j]) / 3**0.5 for j in near])
        expected = (weight[:, None] * v[0, h, near].numpy()).sum(0) / weight.sum()
        np.testing.assert_allclose(found[h, i], expected)


def test_positions_are_the_laplacian_s_smallest_eigenvectors() -> None:
    adjacency = graphs.block_models(torch.tensor([1, 2]))
    for graph, places in zip(adjacency, graphs.laplacian_positions(adjacency)):
        laplacian = csgraph.laplacian(graph.double().numpy(), normed=True)
        values = np.linalg.eigvalsh(laplacian)[1:5]
        np.testing.assert_allclose(laplacian @ places.numpy(), places.numpy() * values, atol=1e-5)


def test_block_models_have_communities_and_the_degree_asked_for() -> None:
    many = graphs.block_models(torch.tensor([0, 1, 2]).repeat(60))
    assert torch.equal(many, many.mT)
    assert float(many.diagonal(dim1=1, dim2=2).abs().max()) == 0
    for kind in range(3):
        assert float(many[kind::3].sum(2).mean()) == pytest.approx(graphs.DEGREE, rel=0.05)
    gaps = [np.linalg.eigvalsh(csgraph.laplacian(g.numpy(), normed=True))[1] for g in many]
    assert np.mean(gaps[0::3]) > np.mean(gaps[1::3])


@pytest.mark.parametrize("method", ["bn", "ln", "nf"])
def test_the_transformer_does_not_see_the_order_of_nodes(method: str) -> None:
    adjacency = graphs.block_models(torch.tensor([0, 1, 2]))
    places, order = graphs.laplacian_positions(adjacency), torch.randperm(graphs.NODES)
    model = graphs.GraphTransformer(method, 8, 3)
    again = model(adjacency[:, order][:, :, order], places[:, order])
    assert torch.allclose(model(adjacency, places), again, atol=1e-4)


# Certified bounds


def test_bounds_of_a_layer_are_those_of_the_corners() -> None:
    weight, bias, x = normal(5, 3), normal(5), normal(1, 3)
    corners = torch.tensor(list(product((-0.2, 0.2), repeat=3)), dtype=torch.float64)
    values = (x + corners) @ weight.T + bias
    low, high = certified.through_affine((x - 0.2, x + 0.2), weight, bias)
    assert torch.allclose(low[0], values.amin(0))
    assert torch.allclose(high[0], values.amax(0))
    norm = nn.BatchNorm1d(5).double()
    nn.init.normal_(norm.weight)  # of both signs
    for training in (True, False):
        clean = normal(20, 5)
        variance, mean = (clean.var(0, correction=0), clean.mean(0)) if training else (torch.ones(5), torch.zeros(5))
        normed = (values - mean) / (variance + 1e-5).sqrt() * norm.weight + norm.bias
        low, high = certified.through_batch_norm(
            (values.amin(0)[None], values.amax(0)[None]), norm.train(training), clean
        )
        assert torch.allclose(low[0], normed.amin(0))
        assert torch.allclose(high[0], normed.amax(0))


@pytest.mark.parametrize("kind", [(True, False, False), (False, True, True)])
def test_no_image_within_the_radius_breaks_a_bound(kind: tuple[bool, bool, bool]) -> None:
    model = certified.Certified(6, 16, 4, **dict(zip(("norm", "start", "scaled"), kind))).eval()
    x, labels = torch.rand(5, 6), torch.tensor([0, 1, 2, 3, 0])
    _, layers, behind = model.bounds(x, 0.1)
    margins = model.margins(behind, labels)
    assert torch.equal(margins[torch.arange(5), labels], torch.zeros(5))
    for _ in range(200):
        shifted = (x + 0.1 * (2 * torch.randint(2, x.shape) - 1)).clamp(0, 1)
        outputs, same, _ = model.bounds(shifted, 0.0)
        for (low, high), (value, _) in zip(layers, same, strict=True):
            assert ((low <= value + 1e-5) & (value <= high + 1e-5)).all()
        assert (outputs.gather(1, labels[:, None]) - outputs >= margins - 1e-5).all()


def test_bounds_have_the_right_derivatives_through_a_batch_norm_in_training() -> None:
    model, labels = (
        certified.Certified(4, 6, 3, norm=True, start=True, scaled=True).double(),
        torch.tensor([0, 1, 2, 0]),
    )

    def margins(x: Tensor) -> Tensor:
        return model.margins(model.bounds(x, 0.05)[2], labels)

    assert torch.autograd.gradcheck(margins, (0.1 + 0.8 * torch.rand(4, 4, dtype=torch.float64).requires_grad_(),))


def test_the_start_for_bounds_keeps_their_width() -> None:
    x = torch.rand(64, 300)
    for scaled in (False, True):
        model = certified.Certified(300, 300, 4, norm=False, start=True, scaled=scaled)
        _, layers, _ = model.bounds(x, 0.05)
        widths = [float((high - low).mean()) for low, high in layers]
        assert widths[-1] / widths[0] == pytest.approx(1, abs=0.25)
    plain = certified.Certified(300, 300, 4, norm=False, start=False, scaled=False).bounds(x, 0.05)[1]
    assert float((plain[-1][1] - plain[-1][0]).mean()) > 10 * float((plain[0][1] - plain[0][0]).mean())


# Distilled images


def test_the_loss_of_statistics_and_its_derivative() -> None:
    x, mean, std = normal(4, 3, 2, 2), normal(3), 1 + torch.rand(3, dtype=torch.float64)
    values = x.transpose(0, 1).reshape(3, -1).numpy()
    expected = ((values.mean(1) - mean.numpy()) ** 2).sum() + ((values.std(1) - std.numpy()) ** 2).sum()
    assert float(distilled.statistics_loss(x, mean, std)) == pytest.approx(expected)
    assert torch.autograd.gradcheck(lambda y: distilled.statistics_loss(y, mean, std), (x.requires_grad_(),))


def test_rounding_is_torch_s_fake_quantisation() -> None:
    x = torch.randn(200)
    low, high = torch.tensor(-1.3), torch.tensor(2.1)
    for bits in (4, 8):
        step = float((high - low) / (2**bits - 1))
        expected = torch.fake_quantize_per_tensor_affine(x, step, round(-float(low) / step), 0, 2**bits - 1)
        assert torch.allclose(distilled.rounded(x, low, high, bits), expected, atol=1e-6)


@pytest.mark.parametrize("method", ["bn", "nf"])
def test_a_quantised_network_of_many_bits_is_the_network_and_of_few_is_not(method: str) -> None:
    model, x = shared.Network(method, 8, 10).eval(), torch.randn(16, 1, 8, 8)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    bounds = distilled.ranges(model, x)
    outputs = model(x)
    assert torch.allclose(distilled.quantised(model, bounds, 16)(x), outputs, atol=2e-3)
    few = distilled.quantised(model, bounds, 3)
    assert not torch.allclose(few(x), outputs, atol=2e-3)
    assert torch.equal(model(x), outputs)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_distilled_images_have_the_network_s_statistics() -> None:
    model = shared.Network("bn", 4, 10)
    for _ in range(20):
        model(3 + 2 * torch.randn(32, 1, 8, 8))
    model.eval()
    loss = {}
    for updates in (0, 60):
        images, seen = distilled.distil(model, torch.Size((32, 1, 8, 8)), updates), []
        norm = next(shared.batch_norms(model))
        hook = norm.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        model(images)
        hook.remove()
        std = (norm.running_var + norm.eps).sqrt()
        loss[updates] = float(distilled.statistics_loss(seen[0], norm.running_mean, std))
    assert loss[60] < 0.2 * loss[0]


def test_designed_ranges_cover_what_a_network_sees_at_its_start() -> None:
    model = shared.Network("nf", 16, 10)
    for (low, high), (seen_low, seen_high) in zip(
        distilled.designed_ranges(model), distilled.ranges(model, torch.randn(64, 1, 8, 8)), strict=True
    ):
        assert float(low) <= 0 <= float(seen_high)
        assert 0.3 * float(high) < float(seen_high) < 2 * float(high) or seen_low >= 0


# Collapse


def test_the_world_is_a_torus() -> None:
    image, places = torch.rand(3, 1, 8, 8), torch.tensor([[0, 0], [2, 11], [7, 3]])
    still = collapse.world(image, torch.zeros(3, 2, dtype=torch.int64)).view(3, 12, 12)
    assert torch.equal(still[:, :8, :8], image[:, 0])
    moved = collapse.world(image, places).view(3, 12, 12)
    for i, (down, right) in enumerate(places.tolist()):
        assert torch.equal(moved[i], torch.roll(still[i], (down, right), (0, 1)))


def test_rank_spread_and_what_can_be_read() -> None:
    equal = torch.cat((torch.eye(4), -torch.eye(4)))
    assert collapse.effective_rank(equal) == pytest.approx(4)
    assert collapse.effective_rank(normal(20, 1) @ normal(1, 5)) == pytest.approx(1)
    assert collapse.relative_spread(torch.ones(5, 3)) == 0
    assert collapse.relative_spread(equal) == pytest.approx(1)
    places = torch.randint(12, (200, 2))
    angles = 2 * np.pi * places.double() / 12
    known = torch.cat((angles.sin(), angles.cos()), 1) @ normal(4, 6)
    assert collapse.readable(1e-6 * known, places) == pytest.approx(1)
    assert collapse.readable(normal(200, 6), places) < 0.2
    x = 0.1 * normal(10, 3)
    assert float(collapse.spread_loss(x)) == pytest.approx(np.mean(1 - np.sqrt(x.numpy().var(0, ddof=1) + 1e-4)))


# Pruned candidates


def test_spearman_is_scipy_s_with_ties() -> None:
    a, b = torch.randint(6, (12,)).tolist(), torch.randn(12).tolist()
    assert pruned.spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert pruned.spearman([1.0] * 12, b) == 0


def test_clients_statistics_together_are_those_of_all_images() -> None:
    model, images = shared.Network("bn", 4, 10), torch.randn(20, 1, 8, 8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parts = [pruned.client_statistics(model, part) for part in (images[:6], images[6:])]
    (mean, variance), whole = pruned.merged(parts, [6, 14])[0], model[0][0](images)
    np.testing.assert_allclose(mean.numpy(), whole.mean((0, 2, 3)).detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(variance.numpy(), whole.var((0, 2, 3), correction=0).detach().numpy(), rtol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("method", ["bn", "nf"])
def test_pruning_keeps_the_largest_and_the_density_of_the_whole_for_good(method: str) -> None:
    model, images = shared.Network(method, 8, 10), torch.randn(8, 1, 8, 8)
    convs = pruned.convolutions(model)

    def multiplies() -> list[Tensor]:
        return [(c.effective_weight() if method == "nf" else c.weight).detach().clone() for c in convs]

    old = multiplies()
    pruned.prune(model, pruned.densities([w.numel() for w in old]))
    kept = [w != 0 for w in multiplies()]
    for before, after, mask in zip(old, multiplies(), kept, strict=True):
        assert float(before[mask].abs().min()) >= float(before[~mask].abs().max())
        assert torch.equal(after[mask], before[mask])
    share = sum(int(m.sum()) for m in kept) / sum(m.numel() for m in kept)
    assert share == pytest.approx(pruned.DENSITY, abs=0.01)
    shared.fit(model, lambda: model(images).square().mean(), 3)
    assert all(torch.equal(w != 0, mask) for w, mask in zip(multiplies(), kept, strict=True))
    assert not torch.equal(multiplies()[0], old[0] * kept[0])


# A segmenter


def test_statistics_decay_from_source_to_target() -> None:
    source, target = torch.tensor([1.0, 3.0]), torch.tensor([5.0, -1.0])
    assert torch.equal(segmenter.decayed(source, target, 0), source)
    share = np.exp(-segmenter.DECAY * 2)
    np.testing.assert_allclose(segmenter.decayed(source, target, 2).numpy(), (1 - share) * target + share * source)
    model = nn.Sequential(nn.BatchNorm2d(1))
    images = 3 + 2 * torch.randn(50, 1, 4, 4)
    adapted = segmenter.adapt(model, [images] * 20)[0]
    assert float(adapted.running_mean) == pytest.approx(float(images.mean()), abs=1e-3)
    assert float(adapted.running_var) == pytest.approx(float(images.var()), abs=1e-3)
    assert float(model[0].running_mean) == 0
    assert segmenter.adapt(model, [])[0].running_mean == 0


def test_overlap_is_scikit_learn_s_and_shapes_are_labelled() -> None:
    images, labels = segmenter.shapes(40, gain=2.0, shift=1.0)
    assert set(labels.unique().tolist()) == {0, 1, 2}
    means = [float(images[:, 0][labels == c].mean()) for c in range(3)]
    assert means == pytest.approx([0.0, 4.0, 2.0], abs=0.05)
    guess = torch.randint(3, labels.shape)
    model: nn.Module = nn.Sequential()
    model.forward = lambda _: nn.functional.one_hot(guess, 3).movedim(3, 1).float()  # type: ignore[method-assign]
    expected = 100 * jaccard_score(labels.flatten(), guess.flatten(), average="macro")
    assert segmenter.overlap(model, images, labels) == pytest.approx(expected)


# Corruptions and another source


def test_printed_digits_are_ten_in_the_form_of_the_data() -> None:
    _, test = shared.digits(TINY, CPU)
    made = robust.printed(40, test, torch.Generator().manual_seed(0))
    assert made.images.shape == (40, 1, 8, 8)
    assert torch.equal(made.labels[:12], torch.arange(12) % 10)
    pixels = made.images * made.std + made.mean
    assert float(pixels.min()) > -1
    assert float(pixels.max()) < 256
    assert float(pixels.mean()) == pytest.approx(float((test.images * test.std + test.mean).mean()), rel=0.4)
    means = torch.stack([made.images[made.labels == d].mean(0) for d in range(10)]).flatten(1)
    assert float(torch.pdist(means).min()) > 1


def test_corruptions_are_what_they_are_called() -> None:
    x = torch.randn(4, 1, 8, 8)
    noise = shared.corrupt(x, "noise", torch.Generator().manual_seed(0)) - x
    assert float(noise.std()) == pytest.approx(0.7, rel=0.1)
    assert torch.allclose(shared.corrupt(x, "blur")[0, 0, 3, 3], x[0, 0, 2:5, 2:5].mean())
    half = shared.corrupt(x, "contrast")
    assert torch.allclose(half.mean((1, 2, 3)), x.mean((1, 2, 3)), atol=1e-6)
    assert torch.allclose(half.std((1, 2, 3)), x.std((1, 2, 3)) / 2)
    assert torch.equal(shared.corrupt(x, "bright"), x + 1)


# Local attention


@pytest.mark.parametrize("norm", ["gn", "bn", "nf"])
def test_local_attention_is_its_formula(norm: str) -> None:
    module, x = local_attention.LocalAttention(norm, 8).double(), normal(3, 8, 5, 6)
    weight = module.conv.effective_weight() if norm == "nf" else module.conv.weight
    gates = []
    for axis in (3, 2):
        strip = np.pad(x.numpy().mean(axis), ((0, 0), (0, 0), (2, 2)))
        length = strip.shape[2] - 4
        made = sum(weight.detach().numpy()[:, 0, k, None] * strip[:, :, k : k + length] for k in range(5))
        if norm == "gn":
            group = made.reshape(3, 4, -1)
            made = ((group - group.mean(2, keepdims=True)) / np.sqrt(group.var(2, keepdims=True) + 1e-5)).reshape(
                made.shape
            )
        if norm == "bn":
            made = (made - made.mean((0, 2), keepdims=True)) / np.sqrt(made.var((0, 2), keepdims=True) + 1e-5)
        gates.append(1 / (1 + np.exp(-made)))
    expected = x.numpy() * gates[0][..., None] * gates[1][:, :, None]
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-6)
    assert torch.autograd.gradcheck(module, (normal(2, 8, 3, 3).requires_grad_(),))


def test_only_a_gate_with_batch_norm_is_moved_by_company() -> None:
    images = torch.randn(8, 1, 8, 8)
    found = {n: local_attention.company(local_attention.Attentive(n, 8, 10, 1), images) for n in ("bn", "gn", "nf")}
    assert found["bn"] > 0.01
    assert max(found["gn"], found["nf"]) < 1e-6


# Double descent


def test_gradient_descent_in_closed_form_is_the_loop() -> None:
    phi, targets = normal(8, 5), normal(8, 2)
    weights, rate = torch.zeros(5, 2, dtype=torch.float64), 1 / float(torch.linalg.svdvals(phi)[0] ** 2)
    for _ in range(30):
        weights -= rate * phi.T @ (phi @ weights - targets)
    assert torch.allclose(double_descent.descend(phi, targets, 30), weights)
    wide = normal(5, 9)
    assert torch.allclose(double_descent.descend(wide, targets[:5], 1e9), torch.linalg.pinv(wide) @ targets[:5])


def test_features_are_normalised_over_rows_or_centred_within_them() -> None:
    x, new, weight = normal(30, 6), normal(4, 6), normal(20, 6)
    raw = double_descent.features(x, weight, "raw")
    np.testing.assert_allclose(raw.numpy(), np.maximum(x.numpy() @ weight.numpy().T, 0) / 20**0.5)
    made = 20**0.5 * double_descent.features(x, weight, "normalised")
    assert torch.allclose(made.mean(0), torch.zeros(20, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(made.std(0, correction=0), torch.ones(20, dtype=torch.float64), atol=1e-3)
    assert torch.equal(double_descent.features(new, weight, "normalised", x), double_descent.features(
        torch.cat((new, x)), weight, "normalised", x)[:4])  # fmt: skip
    nf = double_descent.features(x, weight, "nf")
    assert torch.allclose(nf.mean(1), torch.zeros(30, dtype=torch.float64), atol=1e-12)
    phi = torch.diag(torch.tensor([2.0, 1.0, 0.5, 0.0]).double())
    assert double_descent.condition(phi) == pytest.approx((2 * np.log10(4), 2 * np.log10(2)))


# Smoothness


def test_the_gradient_in_front_of_a_batch_norm_has_the_length_of_the_theorem() -> None:
    x, gamma = normal(7, 1).requires_grad_(), 1.7
    norm = nn.BatchNorm1d(1, eps=1e-12).double()
    nn.init.constant_(norm.weight, gamma)
    behind = norm(x)
    behind.retain_grad()
    (behind.sin() * normal(7, 1)).sum().backward()
    assert x.grad is not None
    assert behind.grad is not None
    normed = ((x - x.mean()) / x.std(correction=0)).detach()[:, 0]
    found = smoothness.layer_gradient(behind.grad[:, 0], normed, gamma, float(x.std(correction=0)))
    assert found == pytest.approx(float(x.grad.square().sum()))


def test_effective_smoothness_of_a_parabola_is_its_curvature() -> None:
    rates, at, curvature = torch.tensor([0.1, 0.2]), 3.0, 4.0
    slope = curvature * at
    probes = [[curvature / 2 * at**2, slope, 0.0]]
    for rate in rates.tolist():
        there = at - rate * slope
        probes.append([curvature / 2 * there**2, curvature * abs(there), curvature * rate * slope])
    found = smoothness.path(torch.tensor([probes]), rates)
    assert float(found["smoothness"]) == pytest.approx(curvature)
    losses = [row[0] for row in probes]
    assert float(found["loss range"]) == pytest.approx(max(losses) - min(losses))

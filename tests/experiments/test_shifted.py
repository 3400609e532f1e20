from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from experiments.tasks.data import Split, load
from experiments.tasks.descent import seeded
from experiments.tasks.draws import draw
from experiments.tasks.federated import DOMAINS, Federated, average, in_domain, shared_state
from experiments.tasks.recipe import Data, Recipe
from experiments.tasks.test_time import CORRUPTIONS, corrupted
from experiments.tasks.test_time import TestTime as Shifted
from experiments.tasks.training import evaluate
from nfnets_lite.models import ResNetSpec, create_model, model_spec

pytestmark = pytest.mark.usefixtures("seeded_zero")
CPU = torch.device("cpu")
DIGITS = Data("digits", train=1077, validation=360)


def network(method: str) -> ResNetSpec:
    spec = model_spec("cifar_resnet8", alpha=1.0, skip_gain=1.0, width=(8, 16), depth=(1, 1), strides=(1, 2))
    return replace(spec, stem_width=8, in_channels=1).with_method(method)


def grey(*shape: int) -> Split:
    """Images of pixels between 100 and 150 of 255, so that no change leaves the range."""
    pixels = 100 + 50 * torch.rand(shape, generator=torch.Generator().manual_seed(0))
    mean, std = torch.full((1, 1, 1, 1), 120.0), torch.full((1, 1, 1, 1), 30.0)
    return Split((pixels - mean) / std, torch.arange(shape[0]) % 10, mean, std)


def pixels(split: Split) -> torch.Tensor:
    return (split.images * split.std + split.mean) / 255


def test_corruptions_do_what_they_are_called() -> None:
    split = grey(20, 1, 8, 8)
    changed = {name: pixels(corrupted(split, name, torch.Generator().manual_seed(1))) for name in CORRUPTIONS}
    plain = pixels(split)
    assert torch.allclose(changed["clean"], plain, atol=1e-6)
    assert torch.allclose(changed["brightness"], plain + 0.3, atol=1e-6)
    assert torch.allclose(changed["contrast"].mean((1, 2, 3)), plain.mean((1, 2, 3)), atol=1e-6)
    assert torch.allclose(changed["contrast"].std((1, 2, 3)), 0.3 * plain.std((1, 2, 3)), atol=1e-6)
    assert (changed["noise"] - plain).std().item() == pytest.approx(0.2, rel=0.1)
    inner = torch.nn.functional.avg_pool2d(torch.nn.functional.avg_pool2d(plain, 3, 1), 3, 1)
    assert torch.allclose(changed["blur"][:, :, 2:-2, 2:-2], inner, atol=1e-6)
    dark = replace(split, images=split.images - 10)
    assert all(pixels(corrupted(dark, name, torch.Generator())).min() > -1e-6 for name in CORRUPTIONS)


def shifted(method: str = "bn", **changes: object) -> Shifted:
    run = Shifted(method, network(method), DIGITS, Recipe(64, 2.0, 0.2), images=200, stream_batch=20, adapt=True)
    return replace(run, **changes)


def test_both_orders_hold_the_same_images() -> None:
    run, split = shifted(images=50), grey(60, 1, 8, 8)
    one, other = (run._stream(split, stream, "noise") for stream in ("shuffled", "sorted"))
    assert other.labels.tolist() == sorted(other.labels.tolist())
    assert one.labels.tolist() != other.labels.tolist()
    assert len(one) == len(other) == 50

    def rows(s: Split) -> list[tuple[float, ...]]:
        return sorted(tuple(x.tolist()) for x in s.images.flatten(1))

    assert rows(one) == rows(other)


def test_a_sorted_stream_ruins_the_statistics_of_its_batches_and_nothing_else() -> None:
    outcome = shifted().execute(CPU)
    m = outcome.metrics
    names = ("source", "batch", "alpha_10", "alpha_50", "alpha_90", "mixed", "unmix")
    corruptions = (*CORRUPTIONS, "corrupted")
    wanted = {f"{n}_{s}_{c}_accuracy" for n in names for s in ("shuffled", "sorted") for c in corruptions}
    assert wanted == {name for name in m if name.endswith("_accuracy") and name != "train_accuracy"}
    for c in corruptions:
        assert m[f"source_shuffled_{c}_accuracy"] == m[f"source_sorted_{c}_accuracy"]
        assert m[f"mixed_sorted_{c}_accuracy"] <= 1
    assert m["batch_shuffled_clean_accuracy"] > m["batch_sorted_clean_accuracy"] + 0.3
    assert m["unmix_sorted_clean_accuracy"] > m["batch_sorted_clean_accuracy"] + 0.3
    changed = [m[f"batch_sorted_{c}_accuracy"] for c in CORRUPTIONS if c != "clean"]
    assert m["batch_sorted_corrupted_accuracy"] == pytest.approx(sum(changed) / 4)
    mixtures = [m[f"alpha_{a}_shuffled_noise_accuracy"] for a in (10, 50, 90)]
    assert m["mixed_shuffled_noise_accuracy"] in mixtures
    assert shifted().execute(CPU) == outcome


def test_without_adaptation_the_source_alone_is_judged_and_in_a_search_nothing() -> None:
    run = shifted("gn", adapt=False, images=None)
    metrics = run.execute(CPU).metrics
    assert metrics["source_shuffled_clean_accuracy"] == pytest.approx(metrics["accuracy"])
    assert not any(name.startswith(("batch", "alpha", "unmix", "mixed")) for name in metrics)
    assert not any("shuffled" in name for name in replace(run, split="validation").execute(CPU).metrics)


def test_domains() -> None:
    split = grey(6, 3, 4, 4)
    twice = in_domain(in_domain(split, "inverted"), "inverted")
    assert torch.allclose(twice.images, split.images, atol=1e-5)
    assert torch.allclose(in_domain(split, "plain").images, split.images, atol=1e-5)
    faded = pixels(in_domain(split, "faded"))
    assert torch.allclose(faded, 0.35 + 0.3 * pixels(split), atol=1e-6)
    powers = pixels(in_domain(split, "tinted")).log() / pixels(split).log()
    assert torch.allclose(powers[:, 0], torch.tensor(0.4), atol=1e-4)
    assert torch.allclose(powers[:, 2], torch.tensor(2.5), atol=1e-4)
    assert pixels(in_domain(grey(2, 1, 4, 4), "tinted")).max() < 0.4


def federated(method: str = "nf", **changes: object) -> Federated:
    recipe = Recipe(32, 0.0, 0.2, updates=4, momentum=0.0, warmup=0.0)
    return replace(Federated(method, network(method), DIGITS, recipe, rounds=3), **changes)


def test_one_update_each_and_averaging_is_a_step_along_the_mean_gradient() -> None:
    run = federated(rounds=1, recipe=Recipe(32, 0.0, 0.2, updates=1, momentum=0.0, warmup=0.0, weight_decay=0.0))
    train = load(DIGITS, CPU)["train"]
    with seeded(0, CPU):
        start = create_model(run.model)
    clients = [deepcopy(start).train() for _ in DOMAINS]
    for i, client in enumerate(clients):
        run._trainer(i, client, train)(0, 0.2)
    average(shared_state(clients, local_norms=False))
    share, gradients = len(train) // 4, []
    for i, domain in enumerate(DOMAINS):
        here = in_domain(train, domain)
        rows = i * share + draw(share, 32, 1, torch.Generator().manual_seed(i), run.recipe.augment, CPU).rows[0]
        loss = torch.nn.functional.cross_entropy(start(here.images[rows]), here.labels[rows])
        gradients.append(torch.autograd.grad(loss, list(start.parameters())))
    expected = [p - 0.2 * torch.stack(each).mean(0) for p, each in zip(start.parameters(), zip(*gradients))]
    for client in clients:
        for p, wanted in zip(client.parameters(), expected):
            assert torch.allclose(p, wanted, atol=1e-6)


def test_local_norms_stay_with_their_client() -> None:
    clients = [create_model(network("bn")) for _ in range(2)]
    with torch.no_grad():
        for number, client in enumerate(clients):
            for value in client.state_dict().values():
                value.fill_(number + 1)
    average(shared_state(clients, local_norms=True))
    first, second = (client.state_dict() for client in clients)
    norms = {name for name in first if "running_mean" in name}
    kept = {name.rpartition(".")[0] for name in norms}
    assert len(kept) == 5  # two in each branch, and the last
    for name in first:
        if name.rpartition(".")[0] in kept:
            assert (first[name] == 1).all(), name
            assert (second[name] == 2).all(), name
        else:
            assert (first[name] == 1.5).all(), name
            assert (second[name] == 1.5).all(), name


def test_a_federation_learns_and_reports_its_domains() -> None:
    run = federated("bn", local_norms=True, rounds=6, recipe=replace(federated().recipe, updates=8, lr=0.4))
    outcome = run.execute(CPU)
    m = outcome.metrics
    domains = [m[f"{domain}_accuracy"] for domain in DOMAINS]
    assert m["mean_accuracy"] == m["accuracy"] == pytest.approx(sum(domains) / 4)
    assert m["worst_domain_accuracy"] == min(domains)
    assert m["mean_accuracy"] > 0.2  # chance is 0.1
    assert len(outcome.curve["loss"]) == 6
    assert run.execute(CPU) == outcome


def test_shared_norms_are_one_model_for_all() -> None:
    clients = [create_model(network("bn")) for _ in range(3)]
    average(shared_state(clients, local_norms=False))
    test = load(DIGITS, CPU)["test"]
    assert len({evaluate(client, test)["loss"] for client in clients}) == 1


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"recipe\.momentum=0\.9"):
        federated(recipe=Recipe(32, 0.0, 0.2, updates=4))
    with pytest.raises(ValueError, match="local_norms=True needs batch norms, and the model has norm='none'"):
        federated("nf", local_norms=True)


def test_divergence_is_an_outcome() -> None:
    outcome = federated(recipe=replace(federated().recipe, lr=100.0)).execute(CPU)
    assert outcome.status == "diverged"
    assert "round" in outcome.reason

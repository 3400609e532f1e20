"""A sweep and its records as one object: selections by fields of the runs, what is missing, what is stale."""

from dataclasses import replace

import pytest

from experiments import configs
from experiments.obtain import RESULTS
from experiments.study import Study, field_of
from experiments.sweep import Run
from experiments.tasks.recipe import Clip, Data, Recipe
from experiments.tasks.training import Training
from nfnets_lite.models import model_spec


@pytest.fixture(scope="module")
def study() -> Study:
    return Study.read(configs.sweep("statistics_batch", "small"), RESULTS / "small")


def test_results_are_selected_by_fields_of_their_runs(study: Study) -> None:
    size = max(field_of(r.run, "batch_size") for r in study.final)
    found = study.final.where(method="gn", batch_size=size)
    assert len(found) == len(study.sweep.seeds)
    assert list(found) == [r for r in study.final if r.method == "gn" and r.config["recipe"]["batch_size"] == size]
    assert study.final.where(method="gn").where(batch_size=size) == found
    assert study.final.where(method="none of this name") == ()


def test_a_field_is_found_in_the_run_or_in_what_it_holds_and_nowhere_else() -> None:
    run = Training(
        "nf:updates", model_spec("cifar_resnet8"), Data("digits", train=100), Recipe(16, 2.0, 0.1, clip=Clip())
    )
    assert (run.base, run.variant) == ("nf", "updates")
    assert [field_of(run, name) for name in ("method", "seed", "lr", "name", "depth")] == [
        "nf:updates", 0, 0.1, "digits", run.model.depth
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"field 'rate' is in 0 of the dataclasses that a Training run holds; .* lr"):
        field_of(run, "rate")


def test_a_study_pairs_every_run_with_its_own_record(study: Study) -> None:
    assert study.complete
    assert study.left() == study.missing == []
    assert [(r.key, r.seed) for r in study.recorded] == [(run.key, run.seed) for run in study.runs]
    assert all((r.run.key, r.run.seed, r.run.method) == (r.key, r.seed, r.method) for r in study.recorded)
    assert {r.run.split for r in study.search} == {"validation"}
    assert {r.run.split for r in study.final} == {"test"}
    assert study.final[0].metrics == study.ledger.of(study.final[0].key, study.final[0].seed).metrics  # type: ignore[union-attr]


def test_what_is_missing_and_what_failed_is_left_to_do(study: Study) -> None:
    gone, broken = study.final[0], study.final[1]
    kept = [r for r in study.ledger.records if (r.key, r.seed) != (gone.key, gone.seed)]
    failed = [replace(r, status="failed") if (r.key, r.seed) == (broken.key, broken.seed) else r for r in kept]
    part = Study(study.sweep, replace(study.ledger, records=tuple(failed)))
    expected: list[Run] = [gone.run, broken.run]
    assert part.missing == part.left() == expected
    assert part.searched
    assert not part.complete
    assert len(part.final) == len(study.final) - 2


def test_until_the_search_is_over_all_final_runs_are_left(study: Study) -> None:
    first = study.search[0]
    kept = [r for r in study.ledger.records if (r.key, r.seed) != (first.key, first.seed)]
    part = Study(study.sweep, replace(study.ledger, records=tuple(kept)))
    assert not part.searched
    assert part.left() == [first.run, *part.final_runs]

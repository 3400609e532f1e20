"""Sentences from the committed records for the table of situations, where `{name}` takes the sentence of a name."""

from collections.abc import Mapping

from book.figures import lengths, lessons, plots
from book.figures.lengths import BN, Lengths, spell
from book.figures.tables import versus
from experiments import records
from experiments.configs.budget import SCALES
from experiments.obtain import RESULTS
from experiments.study import Study


def sentences(budget: Study, profile: str) -> Mapping[str, str]:
    """The sentences by name, from the sweep over lengths of training as far as it is recorded, and from others."""
    seen, control = Lengths(budget), SCALES[profile].control_epochs
    clipped = seen.difference(control, "bn_agc", BN)
    return {
        "shortest": lengths.sentences(seen)[-1],
        "clipped_bn": "Not recorded yet."
        if clipped is None
        else f"After {spell(control)}, {versus(clipped, 'BN with AGC', 'BN')}",
        "sixteen": per_statistic(16, profile),
        "two": " ".join(per_update(2, method, profile) for method in ("nf", "gn")),
    }


def per_statistic(images: int, profile: str) -> str:
    """Say what batch norm loses if this number of images shares a statistic, at an unchanged gradient batch."""
    study = _statistics(profile)
    whole = max(cell.recipe.batch_size for cell in study.sweep.cells)
    ghosts = study.final.where(method="ghost_bn")
    few, many = ([r for r in ghosts if dict(r.run.model.norm_options)["size"] == size] for size in (images, whole))
    return versus(records.paired_difference(few, many), f"With {images} images per statistic, BN", f"BN with {whole}")


def per_update(images: int, method: str, profile: str) -> str:
    """Compare a method with batch norm, if an update sees this number of images."""
    few, bn = (_statistics(profile).final.where(method=name, batch_size=images) for name in (method, "bn"))
    return versus(records.paired_difference(few, bn), f"With updates of {images} images, {plots.label(method)}", "BN")


def _statistics(profile: str) -> Study:
    return lessons.largest("statistics_batch", profile, str(RESULTS / profile))[0]

"""A sweep on another data set than its own: CIFAR-100 in place of CIFAR-10, for readers who have it."""

from dataclasses import fields, replace

from experiments.sweep import Run, Sweep
from experiments.tasks.recipe import Data
from experiments.tasks.training import Training
from experiments.tasks.transfer import Transfer

OWN, CLASSES = "cifar10", 10
OTHERS = {"cifar100": 100}  # data sets with as many images of the same size as CIFAR-10, and their numbers of classes


def on_data(sweep: Sweep, name: str) -> Sweep:
    """The sweep on another data set, with as many images and the same share of the classes in each cell.

    Learning rates are searched again, with the sweep's own grid.

    Raises
    ------
    ValueError
        If the data set is not in `OTHERS`, or the sweep has a run that is no training on all classes of CIFAR-10.

    Examples
    --------
    >>> from experiments import configs
    >>> cell = on_data(configs.sweep("sam", "gpu"), "cifar100").cells[0]
    >>> cell.data.name, cell.model.num_classes
    ('cifar100', 100)
    """
    if name not in OTHERS:
        raise ValueError(
            f"data={name!r} cannot stand in for {OWN}; use one of {', '.join(OTHERS)}, or leave --data out"
        )
    odd = stuck(sweep)
    if odd is not None:
        raise ValueError(
            f"data={name!r}: {sweep.name!r} cannot be moved there, because its run {odd.method!r} is no training (or "
            f"transfer) on all classes of {OWN} at this profile; leave --data out, or take another config or profile"
        )
    return replace(sweep, cells=tuple(_moved(cell, name) for cell in sweep.cells))


def stuck(sweep: Sweep) -> Run | None:
    """The first cell that needs its own data set; None if all cells can move to another one."""
    return next((cell for cell in sweep.cells if not _can_move(cell)), None)


def _sources(run: Run) -> dict[str, Data]:
    return {f.name: data for f in fields(run) if isinstance(data := getattr(run, f.name), Data)}


def _can_move(run: Run) -> bool:
    # Kinds derived from Training or Transfer need more of the data: domains, two classes, changed images.
    if type(run) not in (Training, Transfer):
        return False
    assert isinstance(run, Training | Transfer)
    return run.model.num_classes == CLASSES and all(data.name == OWN for data in _sources(run).values())


def _moved(run: Run, name: str) -> Run:
    assert isinstance(run, Training | Transfer)
    times = OTHERS[name] // CLASSES
    sources = {
        place: replace(data, name=name, classes=data.classes and times * data.classes)
        for place, data in _sources(run).items()
    }
    return replace(run, model=replace(run.model, num_classes=OTHERS[name]), **sources)  # type: ignore[arg-type]

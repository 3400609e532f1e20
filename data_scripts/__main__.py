"""Command line: ``python -m data_scripts NAME [NAME...] [--from DIR] [--out DIR]``."""

import pickle
import tarfile
from pathlib import Path
from typing import Annotated

import typer

from .conversion import convert
from .sources import NAMES, lookup

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help=f"One or more of: {', '.join(NAMES)}.")],
    source: Annotated[
        Path | None, typer.Option("--from", metavar="DIR", help="Take the published files from DIR; no download.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Arrays go to DIR/NAME/.", show_default="$NFNETS_LITE_DATA, or data/"
        ),
    ] = None,
) -> None:
    """Fetch (or take from DIR), verify and convert data sets to .npy; complete data sets are left as they are."""
    try:
        for name in names:  # all names are checked first: a typing error must not cost a download
            lookup(name)
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    failed = False
    for name in names:
        try:
            convert(name, source, out)
        except (OSError, ValueError, pickle.UnpicklingError, tarfile.TarError) as error:
            typer.echo(f"error: {name}: {error}", err=True)
            failed = True
    raise typer.Exit(int(failed))


if __name__ == "__main__":
    app(prog_name="python -m data_scripts")

"""Command line: ``python -m book.scaffold NAME``."""

import keyword
import re
import sys
from pathlib import Path
from string import Template

HERE = Path(__file__).resolve().parent
PLACES = {
    "config.py.txt": "experiments/configs/{}.py",
    "chapter.md.txt": "book/chapters/{}.md",
    "test.py.txt": "tests/experiments/test_{}.py",
}
PART = "  - caption: Verdicts\n"  # part of the table of contents before which a new chapter is listed


def scaffold(name: str, root: Path) -> list[Path]:
    """Write the three files and list the chapter in the table of contents; return the files written or changed.

    Raises
    ------
    ValueError
        If the name is no Python name in lower case or is taken, or if the table of contents lacks the line `PART`.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ValueError(f"NAME={name!r} must be a Python name in lower case, such as label_noise")
    targets = {source: root / place.format(name) for source, place in PLACES.items()}
    for path in targets.values():
        if path.exists():
            raise ValueError(f"NAME={name!r} is taken: {path.relative_to(root)} exists; choose another")
    toc = root / "book" / "_toc.yml"
    contents = toc.read_text(encoding="utf-8")
    if PART not in contents:
        raise ValueError(f"{toc} has no line {PART.strip()!r}, before which a new chapter belongs; add it by hand")
    for source, path in targets.items():
        text = Template((HERE / source).read_text(encoding="utf-8"))
        words = {"name": name, "title": name.replace("_", " ").capitalize()}
        path.write_text(text.safe_substitute(words), encoding="utf-8")
    toc.write_text(contents.replace(PART, f"      - file: chapters/{name}\n{PART}"), encoding="utf-8")
    return [*targets.values(), toc]


if __name__ == "__main__":
    root = HERE.parents[1]
    try:
        made = scaffold(sys.argv[1] if len(sys.argv) == 2 else "", root)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print("\n".join(path.relative_to(root).as_posix() for path in made))
    print(f"next: python -m experiments run {sys.argv[1]} --profile smoke; make book CHAPTER={sys.argv[1]}")

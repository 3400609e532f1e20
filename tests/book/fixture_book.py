"""A whole small book: the real configuration, extension and assets around two chapters that need no torch."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from book.tool.layout import Book

REPO = Path(__file__).resolve().parents[2]

HEADER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
cost:
  smoke: 2 s
---
"""

PARAMETERS = """
```{code-cell} python3
:tags: [parameters]

profile = "smoke"
rerun = True
device = "auto"
results_dir = ""
```
"""

INTRO = """# A small book

It follows {cite}`brock2021nfnet`, and has a {doc}`first <chapters/one>` and a {doc}`second <chapters/two>` chapter.

<!-- pdf -->

```{bibliography}
```
"""

ONE = (
    HEADER
    + r"""
# Wombat curves

The variance $\mathrm{Var}(h_{\ell+1}) = \mathrm{Var}(h_\ell) + \alpha^2$ grows with the depth, see {eq}`long`.

```{math}
:label: long
\beta_\ell^2 = 1 + \alpha^2 + \alpha^2 + \alpha^2 + \alpha^2 + \alpha^2 + \alpha^2 + \alpha^2 + \alpha^2 +
\alpha^2 + \alpha^2
```

```{literalinclude} /nfnets_lite/core.py
:pyobject: double
```
"""
    + PARAMETERS
    + """
```{code-cell} python3
from pathlib import Path

from IPython.display import HTML, SVG, Markdown, display
from nfnets_lite.core import double

with Path("executions.txt").open("a") as file:
    file.write(f"one {profile} {rerun} {device} {results_dir}\\n")
print("results in", results_dir, "under", Path.cwd())
print("twice two is", double(2))
```

## The curve

```{code-cell} python3
svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 700 260" width="700"><path d="M20 240Q300 10 680 20" '
svg += 'fill="none" stroke="#0072b2" stroke-width="4"/>'
svg += '<g style="fill: #262626" transform="translate(40 40) scale(0.12 -0.12)"><path d="M0 0H500V60H0Z"/></g></svg>'
display(SVG(svg), metadata={"alt": "Accuracy grows with the batch size and levels off"})
```

```{code-cell} python3
:tags: [remove-input]
columns = [f"column number {n}" for n in range(9)]
rows = [columns, ["---"] * 9, [f"{n / 7:.3f} ± 0.01" for n in range(9)]]
display(Markdown("\\n".join("| " + " | ".join(row) + " |" for row in rows)))
html = "".join("<td>" + cell + "</td>" for cell in columns)
display(HTML("<table class='dataframe'><tbody><tr>" + html + "</tr></tbody></table>"))
```
"""
)

TWO = (
    HEADER
    + """
# Running it
"""
    + PARAMETERS
    + """
```{code-cell} python3
from pathlib import Path

with Path("executions.txt").open("a") as file:
    file.write(f"two {profile} {rerun} {device} {results_dir}\\n")
print("a line of output that is much wider than a telephone is, so that it has to scroll in its own box", "=" * 60)
```
"""
)


@dataclass(frozen=True)
class Profile:
    rerun: bool


PROFILES = {"smoke": Profile(True), "small": Profile(False)}


def make_book(root: Path) -> Book:
    for name in ("_config.yml", "references.bib"):
        (root / "book").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPO / "book" / name, root / "book" / name)
    for name in ("assets", "_ext"):
        shutil.copytree(REPO / "book" / name, root / "book" / name, ignore=shutil.ignore_patterns("__pycache__"))
    files = {
        "constraints.txt": "torch==1\n",
        "nfnets_lite/__init__.py": "",
        "nfnets_lite/core.py": '"""A stand-in."""\n\n\ndef double(x):\n    return 2 * x\n',
        "experiments/results/small/sweep.jsonl": '{"accuracy": 0.5}\n',
        "experiments/claims/claims.yaml": "claims: []\n",
        "book/_toc.yml": "format: jb-book\nroot: intro\nparts:\n- caption: Part\n  chapters:\n"
        "  - file: chapters/one\n- caption: Other\n  chapters:\n  - file: chapters/two\n",
        "book/intro.md": INTRO,
        "book/chapters/one.md": ONE,
        "book/chapters/two.md": TWO,
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return Book(root, root / "book", root / "book" / "_build")

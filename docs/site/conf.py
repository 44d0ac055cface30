"""How Sphinx makes the site of the Markdown pages, where they lie: `make docs`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import docstrings
from sphinx.application import Sphinx

from accel._version import __version__ as release

project = "Accel"
author = "the Accel contributors"
version = release

# The sources are the repository's own pages, so a link between them works on GitHub and here.
root_doc = "README"
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "data/README.md", "docs/*.md", "docs/api/*.md"]
exclude_patterns = ["build", "output", "runs", ".venv"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]

myst_heading_anchors = 3  # `page.md#a-heading` leads where it leads on GitHub
myst_enable_extensions = ["colon_fence"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}

html_theme = "furo"
html_title = f"Accel {release}"
html_additional_pages = {"index": "to_readme.html"}
templates_path = ["templates"]
html_show_sourcelink = False

# GitHub shows README.md as it is; only the site needs to know the order of the pages.
CONTENTS = """
```{toctree}
:hidden:
:caption: Use it

docs/glossary
docs/training
docs/evaluation
docs/performance
data/README
```

```{toctree}
:hidden:
:caption: In depth

docs/evaluation_across
docs/evaluation_cityscapes
docs/video_from_stills
docs/learned_sampling
docs/published_weights
docs/data_checks
docs/results_camvid_lite
docs/results_camvid
```

```{toctree}
:hidden:
:caption: Change it

docs/extending
docs/api/index
CONTRIBUTING
CHANGELOG
```
"""


def _add_contents(app: Sphinx, page: str, source: list[str]) -> None:
    if page == root_doc:
        source[0] += CONTENTS


def _to_rest(app: Sphinx, kind: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    lines[:] = docstrings.to_rest(lines)


def setup(app: Sphinx) -> None:
    app.connect("source-read", _add_contents)
    app.connect("autodoc-process-docstring", _to_rest)

"""Parts of pages that the build itself makes: the first page, the README and the explorers."""

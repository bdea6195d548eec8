"""Sphinx extension: where the book's repository and its pages are, and what the pages do with that.

In a GitHub build the environment says it; elsewhere `book_repository` in `_config.yml` does, which
is empty as long as there is no address. With an address every page links its repository, notebooks
have a button that opens them in JupyterLab on Binder, and pages name their own address. Without one
there are no such buttons and no such names.
"""

import os
import re
from typing import NamedTuple

BINDER = "https://mybinder.org"
BRANCH = "main"  # where nothing else is said


class Address(NamedTuple):
    """A repository, one of its branches, and where GitHub shows the pages that are built from it."""

    repository: str
    branch: str
    pages: str


def pages_of(repository):
    """The address of the repository's GitHub pages; empty for another host."""
    found = re.fullmatch(r"https://github\.com/([^/]+)/([^/]+)", repository)
    if not found:
        return ""
    owner, name = found[1].lower(), found[2]
    return f"https://{owner}.github.io/" + ("" if name.lower() == f"{owner}.github.io" else f"{name}/")


def address_of(environment, configured=""):
    """The book's address: from the variables of a GitHub build, else as configured, else None."""
    repository, branch = configured, BRANCH
    if environment.get("GITHUB_REPOSITORY"):
        server = environment.get("GITHUB_SERVER_URL", "https://github.com")
        repository = f"{server}/{environment['GITHUB_REPOSITORY']}"
        branch = environment.get("GITHUB_REF_NAME", BRANCH)
        if re.fullmatch(r"\d+/merge", branch):  # a pull request, which is no branch of the repository
            branch = BRANCH
    repository = repository.strip().rstrip("/").removesuffix(".git")
    return Address(repository, branch, pages_of(repository)) if repository else None


def configure(app, config):
    """Tell the theme and Sphinx the address, or that there is none."""
    address = address_of(os.environ, config.book_repository)
    config.html_theme_options.update(
        repository_url=address.repository if address else "",
        repository_branch=address.branch if address else "",
        path_to_docs="",  # the notebooks' paths begin at the repository's root
        launch_buttons={"binderhub_url": BINDER, "notebook_interface": "jupyterlab"} if address else {},
        use_repository_button=bool(address),
        use_issues_button=bool(address),
    )
    if address and not config.html_baseurl:  # which a book with a domain of its own would set
        config.html_baseurl = address.pages


def setup(app):
    """Register the setting, and act on it before the theme does."""
    app.add_config_value("book_repository", "", "html")
    app.connect("config-inited", configure, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

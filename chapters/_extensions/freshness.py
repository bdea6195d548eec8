"""Sphinx extension: execute a chapter again when what it runs on has changed.

jupyter-cache knows a notebook by its code cells alone, so it would go on serving the
outputs of an old `ntkutils`, an old requirements.txt or another Python. This extension
stamps each cached execution with a fingerprint of those, drops the executions whose stamp
is no longer current, and has Sphinx read their pages again.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

import nbformat
from jupyter_cache import get_cache
from jupyter_cache.cache.db import NbCacheRecord

PACKAGE = "ntkutils"


def fingerprints(root):
    """(of Python and requirements.txt, of these and the package): two hex digests."""
    root = Path(root)
    ground = hashlib.sha256("{}.{}\n".format(*sys.version_info[:2]).encode())
    requirements = root / "requirements.txt"
    ground.update(requirements.read_bytes() if requirements.exists() else b"")
    package = ground.copy()
    for module in sorted((root / PACKAGE).rglob("*.py")):
        package.update(f"{module.relative_to(root).as_posix()}\n".encode())
        package.update(hashlib.sha256(module.read_bytes()).digest())
    return ground.hexdigest(), package.hexdigest()


def uses_package(notebook):
    """Whether a code cell of the notebook mentions the package."""
    return any(PACKAGE in cell.source for cell in notebook.cells if cell.cell_type == "code")


class Freshness:
    """The stamps, kept beside the cache.

    executions: {hash of a notebook's code: fingerprint it was executed with}.
    pages: {builder: {page: fingerprint of the execution that it shows}}. A build can be cut
    short after a chapter was executed and before its page was written, and another builder's
    build says nothing of the HTML pages: so the pages have stamps of their own.
    """

    def start(self, app):
        """Before anything is read, forget every execution whose stamp is not current."""
        self.cache = get_cache(app.env.mystnb_config.execution_cache_path)
        self.path = Path(app.env.mystnb_config.execution_cache_path) / "freshness.json"
        self.ground, self.package = fingerprints(app.srcdir)
        stored = json.loads(self.path.read_text()) if self.path.exists() else {}
        executions, self.executions = stored.get("executions", {}), {}
        self.pages = stored.get("pages", {})
        for record in self.cache.list_cache_records():
            if executions.get(record.hashkey) in (self.ground, self.package):
                self.executions[record.hashkey] = executions[record.hashkey]
                continue
            try:
                self.cache.remove_cache(record.pk)
            except KeyError:  # its file is gone: an earlier removal was cut short
                NbCacheRecord.remove_record(record.pk, self.cache.db)

    def expected(self, app, docname):
        """(hash of the code, fingerprint to execute it with); (None, None) for a page of text."""
        path = Path(app.env.doc2path(docname))
        if path.suffix != ".ipynb":
            return None, None
        notebook = nbformat.read(path, as_version=4)
        _, key = self.cache.create_hashed_notebook(notebook)
        return key, self.package if uses_package(notebook) else self.ground

    def current(self, app):
        """{page: fingerprint} of the book's notebooks, None where none was executed with it."""
        expected = {docname: self.expected(app, docname) for docname in app.env.found_docs}
        return {
            docname: fingerprint if self.executions.get(key) == fingerprint else None
            for docname, (key, fingerprint) in expected.items()
            if key
        }

    def outdated(self, app, env, added, changed, removed):
        """The notebooks to execute, and those whose page shows another execution."""
        pages = self.pages.get(app.builder.name, {})
        current = self.current(app).items()
        return [name for name, stamp in current if stamp is None or pages.get(name) != stamp]

    def stamp_executions(self, app, *_):
        """Stamp what this build has executed: what is in the cache and was not at its start.

        Only executions that succeeded are in the cache, and only now is that known: a build
        that fails or is interrupted leaves no stamp on the chapter it was executing.
        """
        for record in self.cache.list_cache_records():
            if record.hashkey not in self.executions:
                notebook = self.cache.get_cache_bundle(record.pk).nb
                self.executions[record.hashkey] = self.package if uses_package(notebook) else self.ground
        self.store()

    def finish(self, app, exception):
        """Stamp the pages, if they were written; the executions even if Sphinx failed later."""
        self.stamp_executions(app)
        if exception is None:
            self.pages[app.builder.name] = self.current(app)
            self.store()

    def store(self):
        """Write down what the executions that are now stored were made with."""
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps({"executions": self.executions, "pages": self.pages}, indent=1))
        os.replace(partial, self.path)


def take_stored_outputs(app, config):
    """With the variable STORED_OUTPUTS, execute nothing: the pages show what the notebooks hold."""
    if os.environ.get("STORED_OUTPUTS"):
        config.nb_execution_mode = "off"


def setup(app):
    """Hook the fingerprints into the build."""
    freshness = Freshness()
    app.connect("config-inited", take_stored_outputs)
    # After MyST-NB's own handler, which works out where the cache is.
    app.connect("builder-inited", freshness.start, priority=900)
    app.connect("env-get-outdated", freshness.outdated)
    app.connect("doctree-read", freshness.stamp_executions)
    app.connect("build-finished", freshness.finish)
    return {"parallel_read_safe": False, "parallel_write_safe": True}

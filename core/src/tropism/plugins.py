"""The guarded loader: finds plugins, and lets a broken one hurt only who asks for it.

Every plugin is loaded in its own ``try``; what failed is kept, with its distribution, as a :class:`Fault`, shown by ``tropism plugins``
and quoted when a recipe names something that is not there. A hook that no specification knows, a name given twice and a name of another
modality are faults too. ``TROPISM_STRICT_PLUGINS=1`` raises the first fault (for continuous integration), ``TROPISM_DISABLE_PLUGINS``
(comma-separated names, or ``all``) leaves plugins out.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from tropism import builtin, hookspecs
from tropism.entry import KINDS, Entry
from tropism.errors import PluginError, nearest

GROUP = "tropism"


@dataclass(frozen=True)
class Fault:
    """A plugin that is broken, wholly or in part: one line for a person."""

    plugin: str
    reason: str


@dataclass
class Catalog:
    """All registered entries by kind and name, who gave them, and what went wrong."""

    entries: dict[str, dict[str, Entry]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    origin: dict[tuple[str, str], str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    distributions: dict[str, str] = field(default_factory=dict)

    def find(self, kind: str, name: str) -> Entry:
        """The entry of that name. Raises PluginError with the nearest name and any fault that may explain its absence."""
        if name in self.entries[kind]:
            return self.entries[kind][name]
        hint = nearest(name, self.entries[kind])
        broken = "".join(f"\n  note: plugin {fault.plugin} is broken: {fault.reason}" for fault in self.faults)
        raise PluginError(f"no {kind} entry '{name}'{hint}; 'tropism ls {kind}' lists {len(self.entries[kind])} names{broken}")

    def load(self, kind: str, name: str) -> Any:
        """Find and import."""
        return self.find(kind, name).load()


def manager(files: Iterable[Path] = ()) -> tuple[pluggy.PluginManager, Catalog]:
    """Load the built-ins, every installed plugin and the given single-file plugins; return pluggy's manager and the catalog."""
    plugins, catalog = pluggy.PluginManager(GROUP), Catalog()
    plugins.add_hookspecs(hookspecs)
    disabled = {name for name in os.environ.get("TROPISM_DISABLE_PLUGINS", "").split(",") if name}
    _add(plugins, catalog, "tropism", lambda: builtin)
    if "all" not in disabled:
        for point in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda point: point.name):
            if point.name not in disabled:
                label = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
                _add(plugins, catalog, point.name, point.load, label)
    for file in files:
        _add(plugins, catalog, file.stem, lambda file=file: load_file(file), str(file))  # type: ignore[misc]
    return plugins, catalog


def silent() -> pluggy.PluginManager:
    """A manager without plugins: whom the events of a run's other processes go to, as its trackers listen to the main one alone."""
    plugins = pluggy.PluginManager(GROUP)
    plugins.add_hookspecs(hookspecs)
    return plugins


def load_file(path: Path) -> ModuleType:
    """Import a single-file plugin (``--plugin my_reward.py``) so that entries may point to its module name."""
    if not path.is_file():
        raise PluginError(f"--plugin {path}: no such file")
    before = sys.modules.get(path.stem)
    if before is not None and Path(getattr(before, "__file__", None) or "").resolve() != path.resolve():
        raise PluginError(f"--plugin {path}: a module named '{path.stem}' is loaded already; give the file another name")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
    return module


@cache
def installed() -> tuple[pluggy.PluginManager, Catalog]:
    """The manager and catalog of what is installed, loaded once per process."""
    return manager()


class Views(Mapping[str, Any]):
    """Views by the kind of media they show, built when they are asked for. The entry ``audio/clip`` shows the kind ``clip``."""

    def __init__(self, catalog: Catalog) -> None:
        self.entries = {name.rpartition("/")[2]: entry for name, entry in catalog.entries["views"].items()}
        self.built: dict[str, Any] = {}

    def __getitem__(self, kind: str) -> Any:
        if kind not in self.built:
            self.built[kind] = self.entries[kind].load()()
        return self.built[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def views(catalog: Catalog | None = None) -> Views:
    """The views of a catalog, or of all that is installed."""
    return Views(catalog or installed()[1])


def _add(plugins: pluggy.PluginManager, catalog: Catalog, name: str, load: Callable[[], Any], label: str = "") -> None:
    """Load one plugin and take its entries, or record why not; a fault leaves no trace of the plugin but the record."""
    taken = plugins.has_plugin(name)
    try:
        if taken:
            raise PluginError(f"a plugin named '{name}' is loaded already; give this one another name")
        module = load()
        _refuse_unknown_hooks(plugins, module)
        plugins.register(module, name)
        fresh = _entries(plugins, module)
        _refuse_bad_names(catalog, name, fresh)
    except (Exception, SystemExit) as error:  # whatever a third party's import raises must not stop the others
        if plugins.has_plugin(name) and not taken:
            plugins.unregister(name=name)
        if os.environ.get("TROPISM_STRICT_PLUGINS") == "1":
            raise
        catalog.faults.append(Fault(f"{name} ({label})" if label else name, f"{type(error).__name__}: {error}".splitlines()[0]))
        return
    catalog.distributions[name] = label
    for kind, entry in fresh:
        catalog.entries[kind][entry.name] = entry
        catalog.origin[kind, entry.name] = name


def _entries(plugins: pluggy.PluginManager, module: Any) -> list[tuple[str, Entry]]:
    found = []
    for kind in KINDS:
        register = getattr(module, f"register_{kind}", None)
        if register is not None and plugins.parse_hookimpl_opts(module, f"register_{kind}") is not None:
            given = register()
            if not isinstance(given, list | tuple):
                raise PluginError(f"register_{kind} returned a {type(given).__name__}; expected a list of tropism.Entry")
            for entry in given:
                if not isinstance(entry, Entry):
                    raise PluginError(f"register_{kind} returned a list with a {type(entry).__name__}; expected a list of tropism.Entry")
                found.append((kind, entry))
    return found


def _refuse_unknown_hooks(plugins: pluggy.PluginManager, module: Any) -> None:
    """pluggy registers a misspelt hook in silence; here it is refused with the nearest name."""
    known = [name for name in vars(hookspecs) if name.startswith(("register_", "on_"))]
    for name in vars(module):
        if plugins.parse_hookimpl_opts(module, name) is not None and name not in known:
            raise PluginError(f"unknown hook '{name}'{nearest(name, known)}")


def _refuse_bad_names(catalog: Catalog, plugin: str, fresh: list[tuple[str, Entry]]) -> None:
    taken = dict(catalog.origin)
    for kind, entry in fresh:
        if plugin != "tropism" and "/" not in entry.name:
            raise PluginError(f"{kind} entry '{entry.name}' needs a name of the form modality/name, such as 'image/{entry.name}'")
        if (kind, entry.name) in taken:
            raise PluginError(f"{kind} entry '{entry.name}' is already given by plugin '{taken[kind, entry.name]}'")
        taken[kind, entry.name] = plugin

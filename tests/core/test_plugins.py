"""The loader: a broken plugin is one line with its name, and nothing else is hurt."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tropism import plugins
from tropism.entry import KINDS, Entry
from tropism.errors import PluginError

HEAD = "from tropism import Entry, hookimpl\n"
GOOD = (
    HEAD
    + """
@hookimpl
def register_rewards():
    return [Entry("good/one", "good_plugin:one", "always one")]

def one(x0):
    return x0.flatten(1).sum(1) * 0 + 1

@hookimpl
def on_metrics(step, metrics):
    heard.append((step, metrics))

heard = []
"""
)
BROKEN = {
    "import": ("import no_such_package_at_all", "ModuleNotFoundError: No module named 'no_such_package_at_all'"),
    "exception": ("raise RuntimeError('first line\\nsecond line')", "RuntimeError: first line"),
    "exit": ("import sys; sys.exit('goodbye')", "SystemExit: goodbye"),
    "syntax": ("def (", "SyntaxError"),
    "misspelt hook": (
        "@hookimpl\ndef register_reward():\n    return []",
        "unknown hook 'register_reward' (did you mean 'register_rewards'?)",
    ),
    "misspelt event": ("@hookimpl\ndef on_metric(step):\n    pass", "unknown hook 'on_metric' (did you mean 'on_metrics'?)"),
    "wrong argument": ("@hookimpl\ndef on_metrics(steps):\n    pass", "PluginValidationError"),
    "no modality": (
        "@hookimpl\ndef register_rewards():\n    return [Entry('plain', 'm:a', '')]",
        "rewards entry 'plain' needs a name of the form modality/name, such as 'image/plain'",
    ),
    "duplicate of the core": (
        "@hookimpl\ndef register_rewards():\n    return [Entry('toy/near', 'm:a', '')]",
        "rewards entry 'toy/near' is already given by plugin 'tropism'",
    ),
    "duplicate of a plugin": (
        "@hookimpl\ndef register_rewards():\n    return [Entry('good/one', 'm:a', '')]",
        "rewards entry 'good/one' is already given by plugin 'good'",
    ),
    "duplicate of its own": (
        "@hookimpl\ndef register_rewards():\n    return [Entry('x/y', 'm:a', ''), Entry('x/y', 'm:b', '')]",
        "rewards entry 'x/y' is already given by plugin 'weird'",
    ),
    "nothing returned": (
        "@hookimpl\ndef register_rewards():\n    pass",
        "register_rewards returned a NoneType; expected a list of tropism.Entry",
    ),
    "a dict returned": (
        "@hookimpl\ndef register_views():\n    return {'a': 1}",
        "register_views returned a dict; expected a list of tropism.Entry",
    ),
    "texts returned": ("@hookimpl\ndef register_views():\n    return ['a']", "register_views returned a list with a str; expected a list"),
    "raising hook": ("@hookimpl\ndef register_credits():\n    return 1 / 0", "ZeroDivisionError: division by zero"),
}


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Install plugins for the length of a test, as pip would: a module and its dist-info."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def install(point: str, code: str) -> None:
        (tmp_path / f"{point}_plugin.py").write_text(textwrap.dedent(code))
        info = tmp_path / f"{point}_dist-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {point}-dist\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[tropism]\n{point} = {point}_plugin\n")

    yield install
    for name in set(sys.modules) - before:
        if name.endswith("_plugin"):
            del sys.modules[name]


def names(catalog: plugins.Catalog) -> set[tuple[str, str]]:
    return {(kind, name) for kind in KINDS for name in catalog.entries[kind]}


def test_an_installed_plugin_gives_its_entries_and_hears_events(site):
    base = plugins.manager()[1]
    site("good", GOOD)
    manager, catalog = plugins.manager()
    assert names(catalog) - names(base) == {("rewards", "good/one")}
    assert catalog.origin["rewards", "good/one"] == "good"
    assert catalog.distributions["good"] == "good-dist 1.2"
    assert catalog.faults == base.faults
    manager.hook.on_metrics(run=None, step=3, metrics={"a": 1.0})
    assert sys.modules["good_plugin"].heard == [(3, {"a": 1.0})]
    assert catalog.load("rewards", "good/one") is sys.modules["good_plugin"].one


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_is_one_line_and_the_rest_works(site, kind):
    code, reason = BROKEN[kind]
    site("good", GOOD)
    manager, before = plugins.manager()
    site("weird", HEAD + code)
    manager, catalog = plugins.manager()
    (fault,) = [fault for fault in catalog.faults if fault not in before.faults]
    assert fault.plugin == "weird (weird-dist 1.2)"
    assert reason in fault.reason
    assert "\n" not in fault.reason
    assert names(catalog) == names(before)
    assert not manager.has_plugin("weird") and manager.has_plugin("good") and manager.has_plugin("tropism")
    manager.hook.on_metrics(run=None, step=1, metrics={})
    assert sys.modules["good_plugin"].heard[-1:] == [(1, {})]


@pytest.mark.parametrize("kind", ["import", "misspelt hook", "duplicate of the core", "nothing returned", "exit"])
def test_strict_mode_raises_the_fault(site, monkeypatch, kind):
    site("weird", HEAD + BROKEN[kind][0])
    monkeypatch.setenv("TROPISM_STRICT_PLUGINS", "1")
    with pytest.raises((PluginError, ImportError, SystemExit)) as told:
        plugins.manager()
    assert BROKEN[kind][1].split(": ", 1)[-1] in str(told.value)


def test_plugins_can_be_left_out_by_name_or_all(site, monkeypatch):
    site("good", GOOD)
    site("other", GOOD.replace("good/one", "other/one"))
    monkeypatch.setenv("TROPISM_DISABLE_PLUGINS", "good")
    manager, catalog = plugins.manager()
    assert "good/one" not in catalog.entries["rewards"] and "other/one" in catalog.entries["rewards"]
    assert not manager.has_plugin("good")
    monkeypatch.setenv("TROPISM_DISABLE_PLUGINS", "all")
    catalog = plugins.manager()[1]
    assert set(catalog.origin.values()) == {"tropism"}
    assert "toy/near" in catalog.entries["rewards"]


def test_a_name_that_is_not_there_gets_the_nearest_and_the_faults(site):
    site("weird", "import no_such_package_at_all")
    catalog = plugins.manager()[1]
    with pytest.raises(PluginError, match=r"no rewards entry 'toy/nearr' \(did you mean 'toy/near'\?\)") as told:
        catalog.find("rewards", "toy/nearr")
    assert "plugin weird (weird-dist 1.2) is broken: ModuleNotFoundError" in str(told.value)


def test_an_entry_whose_import_fails_names_itself_the_module_and_the_remedy():
    with pytest.raises(
        PluginError, match=r"'audio/clap' cannot be loaded from no_clap:Clap: ModuleNotFoundError: No module named 'no_clap'"
    ) as told:
        Entry("audio/clap", "no_clap:Clap", "", "tropism-audio[clap]").load()
    assert "pip install 'tropism-audio[clap]'" in str(told.value)
    with pytest.raises(PluginError, match="has no attribute 'Fare'"):
        Entry("toy/fare", "tropism.toy:Fare", "").load()


def single(folder: Path, name: str, code: str) -> Path:
    file = folder / f"{name}.py"
    file.write_text(HEAD + textwrap.dedent(code))
    return file


@pytest.fixture
def modules():
    before = dict(sys.modules)
    yield
    for name in set(sys.modules) - set(before):
        if name.startswith("my_"):
            del sys.modules[name]


REWARD = """
    @hookimpl
    def register_rewards():
        return [Entry("mine/far", "my_reward:far", "distance from the origin")]

    def far(points):
        return points.norm(dim=1)
"""


def test_a_single_file_is_a_plugin_and_its_entries_load(tmp_path, modules):
    file = single(tmp_path, "my_reward", REWARD)
    for _ in range(2):  # a second manager in one process may load it again
        catalog = plugins.manager([file])[1]
        assert catalog.load("rewards", "mine/far").__name__ == "far"
        assert catalog.distributions["my_reward"] == str(file)


def test_a_file_named_like_a_loaded_module_is_refused_and_the_module_stays(tmp_path):
    import json

    file = single(tmp_path, "json", REWARD)
    catalog = plugins.manager([file])[1]
    assert sys.modules["json"] is json
    assert "another name" in catalog.faults[-1].reason


def test_a_file_named_like_a_plugin_does_not_switch_that_plugin_off(tmp_path, site):
    site("good", GOOD)
    file = single(tmp_path, "good", "")
    manager, catalog = plugins.manager([file])
    assert "a plugin named 'good' is loaded already" in catalog.faults[-1].reason
    manager.hook.on_metrics(run=None, step=5, metrics={})
    assert sys.modules["good_plugin"].heard == [(5, {})]
    file = single(tmp_path, "tropism", "")
    manager, catalog = plugins.manager([file])
    assert manager.has_plugin("tropism") and "toy/near" in catalog.entries["rewards"]


def test_a_missing_file_is_named(tmp_path):
    catalog = plugins.manager([tmp_path / "my_absent.py"])[1]
    assert "my_absent.py: no such file" in catalog.faults[-1].reason


def test_a_file_that_raises_is_not_left_half_imported(tmp_path):
    file = single(tmp_path, "my_broken", "x = 1 / 0")
    catalog = plugins.manager([file])[1]
    assert "ZeroDivisionError" in catalog.faults[-1].reason
    assert "my_broken" not in sys.modules


def test_importing_tropism_and_listing_everything_imports_no_torch():
    code = (
        "import sys, tropism\nfrom tropism import plugins, recipe\n"
        "catalog = plugins.manager()[1]\nassert len(catalog.entries['rewards']) >= 1\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'peft', 'numpy', 'scipy'} & set(sys.modules)\n"
        "print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_entry_of_the_core_loads_and_has_a_summary():
    catalog = plugins.manager()[1]
    for (kind, name), origin in catalog.origin.items():
        if origin == "tropism" and kind != "recipes":
            entry = catalog.find(kind, name)
            assert entry.summary
            assert callable(entry.load()), name


def test_lazy_names_of_the_package_load_and_unknown_ones_are_refused():
    import tropism
    from tropism.types import Rollout

    assert tropism.Rollout is Rollout
    assert set(tropism.__all__) >= {"Entry", "capture", "hookimpl", "run"}
    with pytest.raises(AttributeError, match="no attribute 'captur'"):
        _ = tropism.captur

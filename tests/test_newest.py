"""Pins against the newest releases: real pip on a small index in a folder, and the course's own files."""

import zipfile
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from utils.newest import KEPT_OUT, ROOT, compare, newest_release, pins, requirements, run_tests, table, verdict


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """A function that puts a wheel on a package index in a folder, the only one that pip sees."""
    index = tmp_path / "index"
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", index.as_uri())
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_PRE", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)

    def put(name, version, requires=None):
        folder, wheel = index / name, f"{name}-{version}-py3-none-any.whl"
        folder.mkdir(parents=True, exist_ok=True)
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        with zipfile.ZipFile(folder / wheel, "w") as archive:
            archive.writestr(f"{name}.py", f"version = {version!r}\n")
            info = f"{name}-{version}.dist-info"
            archive.writestr(f"{info}/METADATA", metadata + (f"Requires-Dist: {requires}\n" if requires else ""))
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
        with (folder / "index.html").open("a") as page:
            page.write(f'<a href="{wheel}">{wheel}</a>\n')

    return put


@pytest.fixture
def small_course(tmp_path, publish, monkeypatch):
    """A course that needs torch and two small packages, each one release behind, and a test of its own."""
    for name in ("torch", "tinier", "tiny"):
        publish(name, "1.0")
        publish(name, "2.0", "tinier<3" if name == "tiny" else None)
    (tmp_path / "requirements.txt").write_text("# What it needs.\ntorch  # 00: why\ntinier>=1,<2  # 00: why\n")
    (tmp_path / "requirements-dev.txt").write_text("-r requirements.txt\ntiny  # why\n")
    (tmp_path / "constraints").mkdir()
    for name in ("ci", "colab"):
        (tmp_path / "constraints" / f"{name}.txt").write_text("tiny==1.0\ntinier==1.0\ntorch==1.0\nnumpy==9\n")
    (tmp_path / "test_small.py").write_text(
        "import tinier, tiny, torch\n\n"
        'def test_newest(): assert (tinier.version, tiny.version, torch.version) == ("2.0", "2.0", "1.0")\n'
        'def test_older(): assert tiny.version == "1.0"\n'
    )
    tools = tmp_path / "tools"  # the small index has no pytest: this one is lent, with all but the real torch
    tools.mkdir()
    for path in Path(pytest.__file__).parents[1].iterdir():
        if not path.name.startswith("torch"):
            (tools / path.name).symlink_to(path)
    monkeypatch.setenv("PYTHONPATH", str(tools))
    return tmp_path


@pytest.mark.parametrize(
    "pin, newest, allowed, expected",
    [
        ("1.9", "1.9.0", "", "newest"),
        ("1.10", "1.9", "", "newest"),
        ("1.9", "1.10", "", "behind"),
        ("1.9", "1.10", ">=1,<2", "behind"),
        ("1.9", "2.0", ">=1,<2", KEPT_OUT),
        ("1.9", "1.9.1", "==1.9", KEPT_OUT),
    ],
)
def test_verdict(pin, newest, allowed, expected):
    assert verdict(pin, newest, SpecifierSet(allowed)) == expected


@pytest.mark.parametrize("name", ["ci.txt", "colab.txt"])
def test_every_requirement_has_a_pin_in_its_range(name):
    pinned, wanted = pins(ROOT / "constraints" / name), requirements(ROOT)
    assert {"torch", "trl", "pytest-timeout", "ruff"} <= set(wanted) and "numpy" not in wanted
    assert all(pinned[package] in allowed for package, allowed in wanted.items())
    assert Version(pinned["torch"]).local is None and "huggingface-hub" in pinned


def test_the_newest_release_is_the_newest_final_one(publish):
    for version in ("1.9", "1.10", "1.10.1+cpu", "2.0rc1"):
        publish("tiny", version)
    assert newest_release("tiny") == "1.10.1"


def test_a_package_that_pip_does_not_find_is_an_error(publish):
    publish("tiny", "2.0rc1")
    for name in ("tiny", "tinier"):
        with pytest.raises(LookupError, match=f"(?s)no release of {name}.*No matching distribution"):
            newest_release(name)


def test_every_requirement_is_in_the_table(small_course):
    packages = compare(small_course, small_course / "constraints/ci.txt")
    assert table(packages).splitlines() == [
        "package  ci.txt  colab.txt  newest  allowed  verdict",
        "torch    1.0     1.0        2.0     any      behind",
        f"tinier   1.0     1.0        2.0     <2,>=1   {KEPT_OUT}",
        "tiny     1.0     1.0        2.0     any      behind",
    ]


def test_a_requirement_without_a_pin_is_an_error(small_course):
    (small_course / "constraints/ci.txt").write_text("tiny==1.0\n")
    with pytest.raises(LookupError, match=r"ci\.txt does not pin tinier, torch"):
        compare(small_course, small_course / "constraints/ci.txt")


@pytest.mark.parametrize("test, outcome", [("test_newest", "pass"), ("test_older", "fail")])
def test_tests_run_on_the_newest_releases_and_on_the_pinned_torch(small_course, capfd, test, outcome):
    packages = compare(small_course, small_course / "constraints/ci.txt")
    assert run_tests(small_course, packages, [f"test_small.py::{test}"]) == (outcome == "pass")
    output = capfd.readouterr().out
    assert output.splitlines()[-1] == f"The tests {outcome} on tinier 2.0, tiny 2.0."
    assert f"1 {outcome}ed" in output, "pytest ran something else"


def test_releases_that_do_not_go_together_are_named(small_course, publish, capfd):
    publish("tinier", "3.0")
    packages = compare(small_course, small_course / "constraints/ci.txt")
    assert not run_tests(small_course, packages, ["test_small.py"])
    output = capfd.readouterr().out
    assert "The user requested tinier==3.0\n    tiny 2.0 depends on tinier<3\n" in output
    assert output.splitlines()[-1].startswith("The tests fail on tinier 3.0, tiny 2.0: pip cannot install them")

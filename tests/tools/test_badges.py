"""Badges: writing a repository into a small course, and that the real one names one repository everywhere."""

import json
import re
import subprocess

import pytest

from tools.badges import BADGE, ROOT, course_files, current_repository, remote_repository, write_repository

BADGE_LINE = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/YOUR_NAME/orpo-course/blob/main/notebooks/03_train.ipynb)"
)
README = f"""# Course
{BADGE_LINE}
git clone https://github.com/YOUR_NAME/orpo-course.git
See https://github.com/YOUR_NAME/orpo-course. Also [the tree](https://github.com/YOUR_NAME/orpo-course/tree/main/utils),
[a figure](https://raw.githubusercontent.com/YOUR_NAME/orpo-course/main/images/03.svg), [another branch](
https://github.com/YOUR_NAME/orpo-course/blob/main-2/README.md).
Left alone: https://github.com/YOUR_NAME/orpo-course-extras https://github.com/YOUR_NAME/orpo-course.js
https://github.com/huggingface/trl/blob/main/README.md and the model YOUR_NAME/orpo-course on the Hub.
"""
SETUP = 'COURSE_REPO = "YOUR_NAME/orpo-course"\nCOURSE_REF = "main"\nbranch = "main"'


@pytest.fixture
def course(tmp_path):
    """A course of a README, a notebook and a solution."""
    (tmp_path / "README.md").write_text(README)
    cells = [
        {"cell_type": "markdown", "id": "title", "metadata": {}, "source": ["# Train\n", BADGE_LINE]},
        {"cell_type": "code", "id": "setup", "metadata": {}, "source": SETUP.splitlines(keepends=True)},
    ]
    notebook = json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1) + "\n"
    for name in ("03_train.ipynb", "solutions/03_train_solutions.ipynb"):
        path = tmp_path / "notebooks" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(notebook)
    return tmp_path


def test_a_repository_and_a_tag_are_written_everywhere(course):
    before = {path: path.read_text() for path in course_files(course)}
    changed = write_repository(course, "ada/my.course", "v1.0")

    assert changed == list(before) and len(changed) == 3
    assert current_repository(course) == ("ada/my.course", "v1.0")
    readme = (course / "README.md").read_text()
    assert "git clone https://github.com/ada/my.course.git\n" in readme
    assert "https://github.com/ada/my.course. Also" in readme
    assert "https://github.com/ada/my.course/tree/v1.0/utils" in readme
    assert "https://raw.githubusercontent.com/ada/my.course/v1.0/images/03.svg" in readme
    assert "https://github.com/ada/my.course/blob/main-2/README.md" in readme
    assert readme.endswith(README[README.index("Left alone") :]), "a link to something else was changed"
    for path in changed[1:]:
        text = path.read_text()
        source = "".join(json.loads(text)["cells"][1]["source"])
        assert source == 'COURSE_REPO = "ada/my.course"\nCOURSE_REF = "v1.0"\nbranch = "main"'
        back = text.replace("ada/my.course", "YOUR_NAME/orpo-course").replace("v1.0", "main")
        assert back == before[path], "something else in the notebook's text was changed"


def test_writing_twice_changes_nothing_and_writing_back_restores(course):
    before = {path: path.read_bytes() for path in course_files(course)}
    assert write_repository(course, "ada/course", "v1.0")
    assert write_repository(course, "ada/course", "v1.0") == []
    assert write_repository(course, "ada/course") == [], "without a ref, the current one stays"
    write_repository(course, "YOUR_NAME/orpo-course", "main")
    assert {path: path.read_bytes() for path in course_files(course)} == before


def test_what_is_no_repository_and_no_ref_is_refused(course):
    for slug in ("", "course", "ada/", "a/b/c", "ada/my course", "https://github.com/ada/course", "a/b.git"):
        with pytest.raises(ValueError, match="owner/name"):
            write_repository(course, slug)
    with pytest.raises(ValueError, match="branch or tag"):
        write_repository(course, "ada/course", "feature/x y")
    assert (course / "README.md").read_text() == README
    (course / "README.md").write_text("# Course\n")
    with pytest.raises(ValueError, match="no Colab badge"):
        write_repository(course, "ada/course")


def test_without_a_name_it_is_that_of_the_remote(course):
    with pytest.raises(ValueError, match="no remote `origin`"):
        remote_repository(course)
    subprocess.run(["git", "init", "-q", course], check=True)
    subprocess.run(["git", "-C", course, "remote", "add", "origin", "somewhere"], check=True)
    for url in (
        "https://github.com/ada/my.course",
        "https://github.com/ada/my.course.git",
        "https://token@github.com/ada/my.course/",
        "git@github.com:ada/my.course.git",
        "ssh://git@github.com:22/ada/my.course.git",
    ):
        subprocess.run(["git", "-C", course, "remote", "set-url", "origin", url], check=True)
        assert remote_repository(course) == "ada/my.course"
    subprocess.run(["git", "-C", course, "remote", "set-url", "origin", "https://gitlab.com/ada/course"], check=True)
    with pytest.raises(ValueError, match="gitlab.com/ada/course is not on GitHub"):
        remote_repository(course)


def test_the_course_names_one_repository():
    slug, ref = current_repository()
    for path in course_files(ROOT):
        text, name = path.read_text(), path.relative_to(ROOT).as_posix()
        for badge in BADGE.finditer(text):
            target = re.match(r"[\w./-]+", text[badge.end() :])[0]
            assert badge.groups() == (slug, ref), (
                f"{name}: a badge opens {badge[1]} at {badge[2]}, README {slug} at {ref}"
            )
            assert (ROOT / target).is_file(), f"{name}: a badge opens {target}, which does not exist"
        clones = re.findall(
            r"git clone\b[^\n]*?https://github\.com/([\w.-]+?/[\w.-]+?)(?:\.git)?(?=[\s\"'`)\\]|$)", text
        )
        others = {"ggml-org/llama.cpp"}  # which a reader of notebook 07 may want
        assert set(clones) - others <= {slug}, f"{name}: clones {clones}, README's badge opens {slug}"
        setups = re.findall(r'COURSE_(?:REPO|REF) = \\"([^"\\]*)\\"', text)
        if path.parent.name == "notebooks":
            assert setups == [slug, ref], f"{name}: the setup cell has {setups}, README's badge {slug}, {ref}"
            assert f"/blob/{ref}/{name})" in text, f"{name} has no Colab badge that opens it"
    assert "git clone" in (ROOT / "README.md").read_text(), "README.md does not say how to clone the course"

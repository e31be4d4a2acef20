"""What was there before is there afterwards: under a number, or untouched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hetero_plugin.verl import kept
from hetero_plugin.verl.kept import KeptError, check_target, keep_beside, new_folder, unused


def tree(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def test_a_file_is_kept_under_the_next_number(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert keep_beside(path) is None
    path.write_text("")
    assert keep_beside(path) is None  # nothing is lost with an empty one
    for text in ("first", "second"):
        path.write_text(text)
        keep_beside(path)
        assert not path.exists()
    assert tree(tmp_path) == {"metrics-1.jsonl": "first", "metrics-2.jsonl": "second"}
    (tmp_path / "runs").mkdir()
    assert keep_beside(tmp_path / "runs") == tmp_path / "runs-1"


def test_the_first_unused_name(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert unused(path) == path
    path.symlink_to(tmp_path / "nowhere")  # a link that leads nowhere is there all the same
    assert unused(path) == tmp_path / "a-2.json"


def write(target: Path, text: str, *inputs: Path) -> None:
    with new_folder(target, inputs) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_text(text)


def test_its_own_folder_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    write(target, "old")
    write(target, "new")
    assert (target / "sub" / "file").read_text() == "new"
    assert sorted(path.name for path in target.iterdir()) == [kept.MARKER, "sub"]
    assert list(target.parent.iterdir()) == [target]  # no work is left lying about


@pytest.mark.parametrize("addition", ["results.json", "sub/more"])
def test_what_was_added_since_is_not_removed(tmp_path: Path, addition: str) -> None:
    target = tmp_path / "target"
    write(target, "old")
    (target / addition).write_text("mine")
    before = tree(target)
    with pytest.raises(KeptError, match=f"did not write there.*{addition}"):
        write(target, "new")
    assert tree(target) == before


def test_a_marker_that_lies_or_is_broken_opens_nothing(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "weights").write_text("mine")
    for marker in ("", "[]", '{"files": 3}', '{"files": ["other"]}'):
        (target / kept.MARKER).write_text(marker)
        with pytest.raises(KeptError, match="did not write there"):
            write(target, "new")
        assert (target / "weights").read_text() == "mine"


def test_an_empty_folder_may_be_filled_and_a_file_may_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", "new")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(KeptError, match="is a file"):
        write(tmp_path / "file", "new")


def test_every_overlap_is_found(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "inner").mkdir(parents=True)
    (source / "file").write_text("mine")
    (tmp_path / "link").symlink_to(source)
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    (blobs / "blob").write_text("mine")
    (source / "config.json").symlink_to(blobs / "blob")
    inputs = [source, source / "config.json"]
    overlapping = [
        source,  # itself
        source / "inner",  # a child
        source / "inner" / "not" / "yet",
        tmp_path,  # a parent
        tmp_path / "link" / "inner",  # through a link
        source / "inner" / ".." / "new",
        blobs,  # where a file of the input really is
    ]
    for target in overlapping:
        with pytest.raises(KeptError, match="overlaps with"):
            check_target(target, inputs)
    with pytest.raises(KeptError, match="symbolic link"):
        check_target(tmp_path / "link", inputs)
    # A neighbour whose name begins alike is none.
    assert (
        check_target(tmp_path / "source-merged", inputs) == (tmp_path / "source-merged").resolve()
    )


@pytest.mark.parametrize("at", ["block", "swap"])
def test_a_failure_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    target = tmp_path / "target"
    write(target, "old")
    before = tree(target)
    rename = Path.rename

    def broken(self: Path, to: str | os.PathLike[str]) -> Path:
        if self.name == "new":
            raise OSError("no space left on device")
        return rename(self, to)

    if at == "swap":
        monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises(OSError, match="no space"), new_folder(target, []) as folder:
        (folder / "half").write_text("new")
        if at == "block":
            raise OSError("no space left on device")
    assert tree(target) == before
    assert list(tmp_path.iterdir()) == [target]

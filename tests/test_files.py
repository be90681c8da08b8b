"""The one writer: what stands under a name is whole, the old or the new, whatever happens to the writing."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trilemma import files
from trilemma.files import PARTIAL, Unwritten, new_folder, replacing, write_bytes, write_json, write_text


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_text(tmp_path / "a.txt", "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"a.txt could not be written \(No space left on device\)") as error:
            write_text(path, "new")
    assert "\n" not in str(error.value)
    with pytest.raises(TypeError), replacing(path) as file:
        file.writelines([b"half", None])  # type: ignore[list-item]
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert path.read_text() == "old"


def test_a_disk_that_lies_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_bytes(tmp_path / "a", b"old")
    confirm = files.confirm

    def lying(file, content) -> None:  # type: ignore[no-untyped-def]
        file.seek(1)
        file.write(b"?")
        confirm(file, content)

    monkeypatch.setattr(files, "confirm", lying)
    with pytest.raises(OSError, match="gives back something else"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"


def test_files_are_as_open_as_the_umask_says_and_links_stay_links(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("old")
    (tmp_path / "link").symlink_to("there")
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "x")
        write_text(tmp_path / "link", "new")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there").read_text() == "new"


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with new_folder(tmp_path / "f") as folder:
            (folder / name).touch()
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "f"):
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["f"]
    assert os.listdir(tmp_path / "f") == ["two"]


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    code = (
        "import sys, os\nfrom trilemma.files import new_folder, partial\nfrom pathlib import Path\n"
        "partial(Path(sys.argv[1]) / 'a').write_text('x')\n"
        "with new_folder(Path(sys.argv[1]) / 'b'):\n    os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    mine = files.partial(tmp_path / "elsewhere")
    assert len(os.listdir(tmp_path)) == 0  # swept by the first name that was asked for in this folder
    mine.touch()
    files.sweep(tmp_path)
    assert mine.exists()
    files.sweep(tmp_path, all_of_them=True)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(PARTIAL)]


def fill_in_vain(path: Path) -> None:
    with new_folder(path) as fresh:
        raise Unwritten(f"{fresh}/a could not be written") from OSError(errno.ENOSPC, "No space left on device")


def test_a_failed_folder_is_named_and_not_the_place_it_is_made_in(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"/made could not be written \(No space left") as caught:
        fill_in_vain(tmp_path / "made")
    assert "partial" not in str(caught.value)
    assert not list(tmp_path.iterdir())

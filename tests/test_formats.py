"""Files in and out, without a database: images, sources, tables, class folders."""

import csv
import io
import json
import os
import stat
import struct
import zipfile
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from annotator.errors import InvalidImport
from annotator.formats import class_folders, csv_rows, images, jsonl_rows, sources
from annotator.formats.images import UnusableImage
from annotator.formats.label_tables import LabelTable, read_rows
from annotator.formats.rows import COLUMNS, Row
from annotator.formats.sources import UnreadableFile

MAX = 1_000_000


def picture(width: int = 30, height: int = 20, kind: str = "PNG", mode: str = "RGB", **more: Any) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((width, height), 60).convert(mode).save(out, kind, **more)
    return out.getvalue()


def inspect(content: bytes, max_pixels: int = MAX) -> images.Inspected:
    return images.inspect(io.BytesIO(content), max_pixels)


# --- images ---


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_each_kind_is_known_by_its_bytes(kind: str) -> None:
    found = inspect(picture(kind=kind))
    assert (found.width, found.height) == (30, 20)
    assert found.mime == f"image/{kind.lower()}"
    assert (found.rendition is not None) == (kind in ("GIF", "TIFF"))


def test_the_exif_orientation_turns_the_sides_and_the_thumbnail() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    found = inspect(picture(600, 300, "JPEG", exif=exif))
    assert (found.width, found.height) == (300, 600)
    assert found.thumbnail is not None
    small = Image.open(io.BytesIO(found.thumbnail[0]))
    assert small.size == (128, 256)
    assert small.getexif().get(0x0112, 1) == 1


def test_what_is_larger_than_a_screen_gets_a_rendition_that_is_decoded_sooner() -> None:
    found = inspect(picture(4000, 200, "JPEG"))
    assert found.rendition is not None and found.rendition[1] == ".jpg"
    assert Image.open(io.BytesIO(found.rendition[0])).size == (2048, 102)
    assert inspect(picture(2048, 20, "JPEG")).rendition is None


def test_a_large_image_with_holes_keeps_them() -> None:
    out = io.BytesIO()
    Image.new("RGBA", (3000, 40), (9, 9, 9, 100)).save(out, "PNG")
    found = inspect(out.getvalue())
    assert found.rendition is not None and found.rendition[1] == ".webp"
    assert Image.open(io.BytesIO(found.rendition[0])).mode == "RGBA"


def test_a_small_image_is_its_own_thumbnail() -> None:
    assert inspect(picture(256, 256)).thumbnail is None


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "I;16", "CMYK"])
def test_every_colour_mode_gets_a_thumbnail(mode: str) -> None:
    kind = "TIFF" if mode == "CMYK" else "PNG"
    if mode == "I;16":
        out = io.BytesIO()
        Image.new("I;16", (400, 300), 40000).save(out, "PNG")
        content = out.getvalue()
    else:
        content = picture(400, 300, kind, mode)
    found = inspect(content)
    assert found.thumbnail is not None
    assert Image.open(io.BytesIO(found.thumbnail[0])).size == (256, 192)


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises this size."""

    def chunk(kind: bytes, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"hello, I am text", "not an image of a known kind"),
        (b"\x89PNG\r\n\x1a\n", "not an image|damaged"),
        (picture(kind="JPEG", width=200)[:900], "damaged"),
        (picture(width=200)[:-500], "damaged"),
        (png_claiming(2000, 2000), "2000 x 2000 pixels; at most 1,000,000"),
        (png_claiming(60000, 60000), "pixels"),
        (SVG, "SVG"),
        (b"PK\x03\x04" + b"\0" * 100, "a zip inside"),
        (b"", "not an image"),
    ],
)
def test_what_is_no_whole_image_is_refused_with_the_reason(content: bytes, why: str) -> None:
    images.quietly_allow_large_images()
    with pytest.raises(UnusableImage, match=why):
        inspect(content)


def test_a_flipped_byte_in_a_png_is_noticed() -> None:
    content = bytearray(picture(width=100, height=100))
    content[len(content) // 2] ^= 0xFF
    with pytest.raises(UnusableImage, match="damaged"):
        inspect(bytes(content))


# --- sources ---


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("../../etc/passwd", "etc/passwd"),
        ("C:\\pets\\cat.png", "C:/pets/cat.png"),
        ("/abs/cat.png", "abs/cat.png"),
        ("a//./b", "a/b"),
        ("cafe\u0301.png", "café.png"),
        ("bad\nname\x00.png", "bad\ufffdname\ufffd.png"),
        ("..", "unnamed"),
        ("right\u202eto-left", "right\ufffdto-left"),
    ],
)
def test_names_are_cleaned(name: str, clean: str) -> None:
    assert sources.clean_name(name) == clean


def test_a_long_name_keeps_its_end() -> None:
    assert sources.clean_name("x" * 900 + "/cat.png").endswith("/cat.png")
    assert len(sources.clean_name("x" * 900)) == 500


def a_zip(*entries: tuple[str | zipfile.ZipInfo, bytes], compression: int = zipfile.ZIP_STORED) -> io.BytesIO:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return out


def outcome(file: io.BytesIO, max_bytes: int = MAX) -> dict[str, Any]:
    """What reading each file of the zip gives: its bytes, or the reason."""
    found: dict[str, Any] = {}
    with sources.open_zip(file, "x.zip") as archive:
        for each in sources.zip_files(archive):
            try:
                found[each.name] = sources.read(each, max_bytes)
            except UnreadableFile as error:
                found[each.name] = str(error)
    return found


def test_a_zip_is_read_without_trusting_it() -> None:
    link = zipfile.ZipInfo("link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    found = outcome(
        a_zip(
            ("good.png", b"fine"),
            ("../../up.png", b"x"),
            ("/root.png", b"x"),
            (link, b"/etc/passwd"),
            ("empty.png", b""),
            ("big.png", b"y" * 2000),
            ("folder/", b""),
        ),
        max_bytes=1000,
    )
    assert found["good.png"] == b"fine"
    assert found["up.png"] == found["root.png"] == "its name leads out of the archive"
    assert found["link.png"] == "a link, not a file"
    assert found["empty.png"] == "empty"
    assert "larger than" in found["big.png"]
    assert len(found) == 6


def test_a_bomb_is_refused_by_its_ratio_before_it_is_read() -> None:
    found = outcome(a_zip(("bomb.png", b"\0" * 5_000_000), compression=zipfile.ZIP_DEFLATED), max_bytes=10_000_000)
    assert "zip bomb" in found["bomb.png"]


def test_a_lying_size_does_not_get_more_bytes_in() -> None:
    file = a_zip(("liar.png", b"z" * 50_000), compression=zipfile.ZIP_DEFLATED)
    content = file.getvalue().replace(struct.pack("<I", 50_000), struct.pack("<I", 10))
    found = outcome(io.BytesIO(content))
    assert found["liar.png"] == b"z" * 10 or "damaged" in found["liar.png"]


def test_a_locked_entry_says_so() -> None:
    content = bytearray(a_zip(("secret.png", b"abc")).getvalue())
    content[6] |= 1  # the flag in the entry ...
    content[content.index(b"PK\x01\x02") + 8] |= 1  # ... and in the table of contents
    assert outcome(io.BytesIO(bytes(content))) == {"secret.png": "locked with a password"}


def test_a_damaged_entry_leaves_the_others() -> None:
    content = bytearray(a_zip(("bad.png", b"abcdefgh"), ("good.png", b"ijkl")).getvalue())
    content[content.index(b"abcdefgh")] ^= 0xFF
    found = outcome(io.BytesIO(bytes(content)))
    assert "damaged" in found["bad.png"] and found["good.png"] == b"ijkl"


@pytest.mark.parametrize("cut", [10, 60])
def test_half_a_zip_is_refused(cut: int) -> None:
    content = a_zip(("a.png", b"a" * 100)).getvalue()
    with pytest.raises(InvalidImport, match="not a whole zip"):
        sources.open_zip(io.BytesIO(content[:cut]), "x.zip")


def test_names_in_utf8_without_the_flag_are_read_as_meant() -> None:
    content = a_zip(("XXXX.png", b"a")).getvalue().replace(b"XXXX", "éé".encode())
    assert list(outcome(io.BytesIO(content))) == ["éé.png"]


def test_litter_is_told_from_images() -> None:
    names = ["__MACOSX/._cat.png", ".DS_Store", "cat/.hidden.png", "Thumbs.db", "cat/1.png"]
    files = [sources.SourceFile(name, io.BytesIO) for name in names]
    assert [each.is_ignored for each in files] == [True, True, True, True, False]
    assert files[-1].folder == "cat"


def test_a_folder_is_walked_without_leaving_it(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "secret.png"
    (inside / "cat").mkdir(parents=True)
    outside.write_bytes(b"secret")
    (inside / "cat" / "1.png").write_bytes(b"one")
    (inside / "near.png").symlink_to(inside / "cat" / "1.png")
    (inside / "far.png").symlink_to(outside)
    (inside / "gone.png").symlink_to(inside / "nowhere")
    os.mkfifo(inside / "pipe.png")
    found = {}
    for each in sources.folder_files(inside):
        try:
            found[each.name] = sources.read(each, MAX)
        except UnreadableFile as error:
            found[each.name] = str(error)
    assert found == {
        "cat/1.png": b"one",
        "near.png": b"one",
        "far.png": "a link that leads out of the folder",
        "gone.png": "cannot be read: No such file or directory",
        "pipe.png": "not a regular file",
    }


def test_a_zip_behind_a_program_is_a_zip_and_an_image_with_a_zip_behind_it_is_not() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("1.png", b"one")
    content = out.getvalue()
    for start in (b"", b"#!/bin/sh\necho unpacking\n", b"MZ" + b"\0" * 500):
        file = io.BytesIO(start + content)
        assert sources.is_zip(file) and file.tell() == 0
        (found,) = sources.zip_files(sources.open_zip(file, "x.zip"))
        assert sources.read(found, MAX) == b"one"
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        assert not sources.is_zip(io.BytesIO(picture(kind=kind) + content))
    assert not sources.is_zip(io.BytesIO(b"I am text"))


# --- tables ---


def table(text: str) -> LabelTable:
    return LabelTable(read_rows(io.BytesIO(text.encode()), "labels.csv"), "labels.csv")


@pytest.mark.parametrize(
    "text",
    [
        "file_name,label\ncat/1.png,cat\n2.png,\n",
        "\ufeffFilename;Class\r\ncat/1.png;cat\r\n2.png;\r\n",
        "label\tpath\ncat\tcat/1.png\n\t2.png\n",
        '{"file_name": "cat/1.png", "label": "cat"}\n\n{"file_name": "2.png", "label": null}\n',
        '{"image": "cat/1.png", "label": ["cat"]}\n{"image": "2.png", "label": []}\n',
    ],
)
def test_tables_are_read_whatever_their_columns_are_called(text: str) -> None:
    found = table(text)
    for source in (["cat/1.png", "2.png"], ["pets/cat/1.png", "2.png"], ["1.png", "2.png"]):
        found.match([*source, "3.png"])
        assert [found.label_of(file) for file in (*source, "3.png")] == ["cat", "", ""]
        assert (found.unmatched, found.ambiguous) == ([], [])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a,b\n1,2\n", "no column file_name"),
        ("file_name\nx.png\n", "no column label"),
        ("file_name,label\nx.png,cat\nx.png,dog\n", "row 2: x.png is labelled 'dog', before that 'cat'"),
        ('{"file_name": "x.png", "label": ["cat", "dog"]}\n', "one class"),
        ('{"file_name": \n', "line 1: not JSON"),
        ("file_name,label,Label \n1.png,cat,dog\n", "labels.csv has the column 'label' 2 times"),
        ("file_name,File_Name,label\n1.png,2.png,cat\n", "the column 'file_name' 2 times"),
        ('{"file_name": "1.png", "label": "a", "label": "b"}\n', "line 1, has the column 'label' 2 times"),
        ('{"file_name": "1.png", "label": "a", "LABEL": "b"}\n', "the column 'label' 2 times"),
        ('{"\\ud800": "1.png", "a\\u0000": 1}\n', "no column file_name or filename or file; it has \ufffd, a\ufffd"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(text: str, why: str) -> None:
    with pytest.raises(InvalidImport, match=why):
        table(text)


def test_a_column_that_is_not_read_may_be_there_twice() -> None:
    for text in (
        "file_name,label,,,note,note\n1.png,cat,,,x,y\n",
        '{"file_name": "1.png", "label": "cat", "note": 1, "note": 2, "box": {"name": 1, "Name": 2}}\n',
    ):
        assert table(text).by_path == {"1.png": "cat"}


def test_half_a_letter_in_a_name_is_no_reason_to_stop() -> None:
    found = table('{"file_name": "\\ud800 \\udfff \\udc80 \\ud83d\\ude00.png", "label": "cat"}\n')
    assert found.by_path == {"\ufffd \ufffd \ufffd \U0001f600.png": "cat"}


def test_a_table_in_another_encoding_is_refused_in_words() -> None:
    with pytest.raises(InvalidImport, match="UTF-8"):
        list(read_rows(io.BytesIO("file_name,label\né.png,cat".encode("latin-1")), "x.csv"))


def test_an_ambiguous_base_name_says_nothing() -> None:
    folders = table("file_name,label\na/1.png,cat\nb/1.png,dog\n")
    folders.match(["c/1.png"])
    assert folders.label_of("c/1.png") == ""
    assert folders.unmatched == ["a/1.png", "b/1.png"]


def test_a_row_that_may_mean_several_files_labels_none_of_them() -> None:
    bare = table("file_name,label\n1.png,cat\n2.png,dog\n")
    bare.match(["x/1.png", "y/1.png", "y/2.png"])
    assert [bare.label_of(file) for file in ("x/1.png", "y/1.png", "y/2.png")] == ["", "", "dog"]
    assert bare.ambiguous == ["1.png"]


def test_a_row_that_names_a_whole_path_means_that_file_alone() -> None:
    exact = table("file_name,label\n1.png,cat\n")
    exact.match(["1.png", "y/1.png"])
    assert [exact.label_of(file) for file in ("1.png", "y/1.png")] == ["cat", ""]


# --- rows ---


def row(item_id: int = 1, **columns: Any) -> Row:
    values: dict[str, Any] = {
        "item_id": item_id,
        "file_name": "a.png",
        "label": "cat",
        "split": "pool",
        "sha256": f"{item_id:08x}" * 8,
        "origin": "human",
        "confidence": None,
        "model_version": None,
        "annotators": ["bob"],
        "labelled_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "seconds": 1.5,
    }
    return Row(**(values | columns))


HOSTILE = ["=1+1", "+1", "-2", "@SUM(A1)", "\tx", "\rx", "'=1", "''=1", "'tis", "＝1", 'a,"b"\nc', "naïve/犬.png", ""]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_cell_runs_in_a_spreadsheet_and_every_cell_reads_back(text: str) -> None:
    written = b"".join(csv_rows.write([row(file_name=text, label=text, annotators=[text or "bob"])])).decode()
    cells = next(csv.DictReader(io.StringIO(written, newline="")))
    assert not cells["label"].startswith(tuple(csv_rows.FORMULA_STARTS))
    assert not cells["file_name"].startswith(tuple(csv_rows.FORMULA_STARTS))
    again = next(read_rows(io.BytesIO(written.encode()), "x.csv"))
    assert again["label"] == again["file_name"] == text


def test_csv_and_json_lines_hold_the_same() -> None:
    rows = [row(number, confidence=0.25, model_version=3) for number in range(1200)]
    cells = list(csv.DictReader(io.StringIO(b"".join(csv_rows.write(rows)).decode(), newline="")))
    objects = [json.loads(line) for line in b"".join(jsonl_rows.write(rows)).splitlines()]
    assert len(cells) == len(objects) == 1200
    assert tuple(cells[0]) == tuple(objects[0]) == COLUMNS
    assert objects[7]["annotators"] == ["bob"] and cells[7]["annotators"] == "bob"
    assert objects[7]["labelled_at"] == cells[7]["labelled_at"] == "2026-01-02T03:04:05+00:00"


# --- class folders ---


def folders_of(rows: list[tuple[Row, str]], classes: list[str]) -> zipfile.ZipFile:
    made = (
        class_folders.ImageRow(each, mime, lambda each=each: io.BytesIO(each.sha256.encode())) for each, mime in rows
    )
    return zipfile.ZipFile(io.BytesIO(b"".join(class_folders.write(made, classes))))


def test_classes_become_folders_that_every_system_takes() -> None:
    names = ["cat", "a/b", "a_b", "A?B", "..", "con", ".hidden", "dot.", "_unlabelled", "日本", "x" * 300]
    folders = class_folders.folder_names(names)
    assert folders["cat"] == "cat" and folders["日本"] == "日本"
    assert folders["a/b"] == "a_b" and folders["a_b"] == "a_b (2)" and folders["A?B"] == "A_B (3)"
    assert folders["con"] == "_con" and folders[".hidden"] == "_.hidden" and folders["dot."] == "dot"
    assert folders["_unlabelled"] == "_unlabelled (2)"
    assert len({each.casefold() for each in folders.values()}) == len(names)
    assert all(each not in ("", ".", "..") and "/" not in each and len(each) < 160 for each in folders.values())


def test_files_of_one_name_do_not_overwrite_each_other() -> None:
    rows = [
        (row(1, file_name="x/1.png"), "image/png"),
        (row(2, file_name="y/1.PNG"), "image/png"),
        (row(3, file_name="z/1.png"), "image/jpeg"),
        (row(4, file_name="../../etc/=evil.png"), "image/png"),
        (row(5, file_name="q.png", label="", origin="none_of_these"), "image/png"),
    ]
    archive = folders_of(rows, ["cat"])
    assert archive.testzip() is None
    names = archive.namelist()
    assert names[:5] == ["cat/1.png", f"cat/1-{2:08x}.PNG", "cat/1.png.jpg", "cat/=evil.png", "_none_of_these/q.png"]
    assert names[5:] == ["labels.csv", "classes.txt"]
    manifest = list(csv.DictReader(io.StringIO(archive.read("labels.csv").decode())))
    assert [csv_rows.unguarded(each["path"]) for each in manifest] == names[:5]
    for (each, _), name in zip(rows, names, strict=False):
        assert archive.read(name).decode() == each.sha256


def test_the_class_order_is_kept_even_for_classes_without_images() -> None:
    assert folders_of([], ["dog", "cat"]).read("classes.txt").decode() == "dog\ncat\n"


def test_the_zip_is_made_piece_by_piece() -> None:
    big = os.urandom(2_000_000)
    made = (class_folders.ImageRow(row(n), "image/png", lambda: io.BytesIO(big)) for n in range(5))
    assert max(map(len, class_folders.write(made, ["cat"]))) < 600_000

"""The file of a recording: written, killed, gone on with, read, compared. About 2 s."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from hetero_plugin.config import ConfigError
from hetero_plugin.profile.recording import (
    Header,
    ModelSource,
    Recording,
    RecordingWriter,
    SiteEntry,
    SiteRecord,
    TensorShape,
    TextSource,
    check_comparable,
    tensors_sha256,
)

T, K, N, C, R = 7, 12, 10, 4, 3


def header(**changes: Any) -> Header:
    made: dict[str, Any] = {
        "model": ModelSource(name="tiny", config_sha256="c", weights_sha256="w"),
        "text": TextSource(name="text.txt", sha256="t"),
        "tokens": tuple(range(T)),
        "positions": (0, 1, 2, 0, 1, 2, 3),
        "sequences": (3, 4),
        "dtype": "bfloat16",
        "engine": "hf",
        "machine": {"device": "cpu", "threads": "2"},
        "columns": C,
    }
    return Header(**(made | changes))


def record(name: str, seed: int = 0, held: bool = True, of: str | None = None) -> SiteRecord:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(T, K, generator=generator).bfloat16()
    columns = torch.tensor([0, 3, 4, 9])
    entry = SiteEntry(
        name=name,
        kind="linear",
        layer=0,
        k=K,
        n=N,
        rows=T,
        columns=C,
        columns_sha256=tensors_sha256({"columns": columns}),
        inputs={"x": TensorShape.of(x)},
        inputs_sha256=tensors_sha256({"x": x}),
        inputs_of=of,
    )
    return SiteRecord(
        entry,
        columns,
        torch.randn(R, T, C, generator=generator).bfloat16(),
        torch.randn(T, C, generator=generator, dtype=torch.float64),
        torch.rand(T, generator=generator, dtype=torch.float64),
        {"x": x} if held else {},
        torch.ones(K) if name.endswith("norm") else None,
    )


def write(path: Path, *records: SiteRecord, **changes: Any) -> Path:
    writer = RecordingWriter(path, header(**changes))
    for one in records:
        writer.add(one)
    writer.close()
    return path


def same(a: SiteRecord, b: SiteRecord) -> None:
    assert a.entry == b.entry and a.inputs.keys() == b.inputs.keys()
    for key in ("columns", "output", "reference", "row_rms", "weight"):
        one, two = getattr(a, key), getattr(b, key)
        assert (one is None and two is None) or (one.dtype == two.dtype and torch.equal(one, two))
    for key, value in a.inputs.items():
        assert torch.equal(value, b.inputs[key])


def test_what_is_written_is_read(tmp_path: Path) -> None:
    first, second = record("layers.0.q"), record("layers.0.k", 0, of="layers.0.q")
    last = record("norm", 2)
    path = write(tmp_path / "a.rec", first, second, last)
    assert not path.with_name("a.rec.part").exists()
    with Recording.open(path) as found:
        assert found.sites() == ["layers.0.q", "layers.0.k", "norm"]
        for one in (first, second, last):
            same(found.site(one.entry.name), one)
        assert 0 < found.header.bytes < path.stat().st_size
        assert found.header.digest == Recording.open(path).header.digest
        with pytest.raises(ConfigError, match="has no site 'nothing'; it has 3"):
            found.site("nothing")
    with zipfile.ZipFile(path) as packed:
        assert {one.compress_type for one in packed.infolist()} == {zipfile.ZIP_STORED}
        sizes = {one.filename: one.file_size for one in packed.infolist()}
    held = T * K * 2  # the shared input is stored once
    gap = sizes["sites/layers.0.q.safetensors"] - sizes["sites/layers.0.k.safetensors"]
    assert held <= gap < held + 120


def test_the_same_recording_is_the_same_file(tmp_path: Path) -> None:
    a = write(tmp_path / "a.rec", record("q")).read_bytes()
    assert a == write(tmp_path / "b.rec", record("q")).read_bytes()


def test_no_reference_is_no_tensor(tmp_path: Path) -> None:
    one = record("q")
    bare = SiteRecord(one.entry, one.columns, one.output, None, one.row_rms)
    with Recording.open(write(tmp_path / "a.rec", bare)) as found:
        assert found.site("q").reference is None and found.site("q").inputs == {}


def test_a_killed_recording_goes_on(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.rec", tmp_path / "whole.rec"
    records = [record(name, seed) for seed, name in enumerate(["q", "k", "norm"])]
    killed = RecordingWriter(path, header())
    killed.add(records[0])
    # Killed while a site was written, and between a site's file and the header.
    (path.with_name("a.rec.part") / "sites/k.safetensors.partial").write_bytes(b"half")
    (path.with_name("a.rec.part") / "sites/norm.safetensors").write_bytes(b"not in the header")
    with pytest.raises(ConfigError, match=r"not finished \(a\.rec\.part is there\)"):
        Recording.open(path)
    again = RecordingWriter(path, header())
    assert [again.has(one.entry.name) for one in records] == [True, False, False]
    for one in records[1:]:
        again.add(one)
    again.close()
    assert path.read_bytes() == write(whole, *records).read_bytes()
    with pytest.raises(ConfigError, match="is there already"):
        RecordingWriter(path, header())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"dtype": "float32"}, "dtype 'bfloat16', and now it is 'float32'"),
        ({"machine": {"device": "cpu", "threads": "1"}}, "machine.threads '2', and now it is '1'"),
        ({"machine": {"device": "cpu", "threads": "2", "isa": "avx2"}}, "machine.isa None"),
        ({"variant": "compiled"}, "variant 'plain'"),
        ({"repeats": 5}, "repeats 3, and now it is 5"),
        ({"replay_of": "abc"}, "replay_of None"),
    ],
)
def test_another_setting_does_not_go_on(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    RecordingWriter(tmp_path / "a.rec", header()).add(record("q"))
    with pytest.raises(ConfigError, match=named.replace(".", r"\.")):
        RecordingWriter(tmp_path / "a.rec", header(**changes))


def test_a_wrong_shape_is_refused(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path / "a.rec", header())
    one = record("q")
    with pytest.raises(ValueError, match=r"q: output is \(2, 7, 4\), expected \(3, 7, 4\)"):
        writer.add(SiteRecord(one.entry, one.columns, one.output[:2], None, one.row_rms))
    writer.add(one)
    with pytest.raises(ValueError, match="q is recorded already"):
        writer.add(one)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        Recording.open(tmp_path / "none.rec")
    bad = tmp_path / "bad.rec"
    bad.write_bytes(b"PK nothing")
    with pytest.raises(ConfigError, match="not a recording, or cut short"):
        Recording.open(bad)
    good = write(tmp_path / "good.rec", record("q"))
    bad.write_bytes(good.read_bytes()[:-40])
    with pytest.raises(ConfigError, match="not a recording, or cut short"):
        Recording.open(bad)
    text = json.loads(header().as_json())
    for changes, said in (
        ({"format": "other"}, "not a recording of"),
        ({"version": 2}, "version 2 of the format; this program reads version 1"),
        ({"tokenz": []}, "tokenz"),
    ):
        with zipfile.ZipFile(bad, "w") as packed:
            packed.writestr("header.json", json.dumps(text | changes))
        with pytest.raises(ConfigError, match=said):
            Recording.open(bad)


def test_what_can_be_compared(tmp_path: Path) -> None:
    def opened(name: str, *records: SiteRecord, **changes: Any) -> Recording:
        return Recording.open(write(tmp_path / f"{name}.rec", *records, **changes))

    a = opened("a", record("q"), record("k"), record("norm"))
    b = opened("b", record("k", held=False), record("q"), engine="vllm", replay_of="x")
    assert check_comparable(a, b) == ["q", "k"]
    model = ModelSource(name="other", config_sha256="c", weights_sha256="other")
    cases: list[tuple[str, list[SiteRecord], dict[str, Any]]] = [
        ("weights of the model: a.rec has 'w'", [record("q")], {"model": model}),
        ("text: a.rec", [record("q")], {"text": TextSource(name="t", sha256="u")}),
        ("tokens: a.rec", [record("q")], {"tokens": (1,) * T}),
        ("dtype: a.rec has 'bfloat16', c4.rec has 'float16'", [record("q")], {"dtype": "float16"}),
        ("no site in common", [record("other")], {}),
        ("inputs of q: .* --replay-inputs a.rec", [record("q", 1)], {}),
    ]
    for number, (said, records, changes) in enumerate(cases, 1):
        with pytest.raises(ConfigError, match=said):
            check_comparable(a, opened(f"c{number}", *records, **changes))
    other = record("q").entry.replace(columns_sha256="other")
    one = record("q")
    columns = SiteRecord(other, one.columns, one.output, one.reference, one.row_rms, one.inputs)
    with pytest.raises(ConfigError, match=r"columns of q: .* same --columns"):
        check_comparable(a, opened("d", columns))

"""A task's Parquet: the same bytes as ever, whoever writes it, since a step's name does not say how it was written."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

import lilora
from lilora.benchmarks import AlignmentConfig, BuildConfig, Stream
from lilora.benchmarks.mini import BENCHMARK, drawing
from lilora.core import registry
from lilora.core.stage_run import StageRun
from lilora.data.build import build_alignment, build_config, build_task
from lilora.data.columns import ANSWER, DRAWN, ID, IMAGE, INSTRUCTION, JUDGED, PUBLISHED, read_columns, write_rows
from lilora.data.location import find_benchmark
from lilora.data.readers.row import Row
from lilora.model.pictures import load_pictures
from tests.lilora.data import layouts

#: What this code wrote before its columns were in one table. "content" holds wherever the tests run; the SHA-256 of the
#: "bytes" also follow from how this version of Arrow's writer lays out a page.
GOLDEN = json.loads((Path(__file__).parent / "golden_parquet.json").read_text())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Every file of three tasks in files, of a drawn one with and without a limit, and of the stage-1 corpus."""
    root = tmp_path_factory.mktemp("written")
    layouts.cvit(root / "data" / "cvit", settings=("Five",), unseen=False)
    layouts.coin(root / "data" / "coin", settings=("Original",))
    small = dataclasses.replace(BENCHMARK.task("VQAv2"), train=9, validation=4, test=6)
    mini = dataclasses.replace(BENCHMARK, tasks=(small,))
    load = registry.load
    files = {}

    def run(name: str) -> tuple[Path, StageRun]:
        (root / name).mkdir()
        return root / name, StageRun(root / name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LILORA_DATA", str(root / "data"))
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        patch.setattr(registry, "load", lambda kind, name: mini if name == "mini" else load(kind, name))
        # The pixels in place of the PNG: how these are packed differs between builds of zlib.
        patch.setattr(drawing.Drawing, "png", lambda picture: hashlib.sha256(picture.image.tobytes()).digest())
        for stream, task in (
            (Stream("cvit", instructions="five"), "ScienceQA"),
            (Stream("cvit", instructions="five", limit=5), "TextVQA"),
            (Stream("coin", instructions="original"), "Grounding"),
        ):
            benchmark = find_benchmark(stream.benchmark)
            config = dataclasses.replace(build_config(benchmark, benchmark.task(task), stream), holdout=2)
            build_task(config, {}, *run(task))
        build_task(BuildConfig("mini", "VQAv2", "five", 1), {}, *run("drawn"))
        build_task(BuildConfig("mini", "VQAv2", "five", 1, limit=3, limit_seed=2), {}, *run("drawn-limited"))
        build_alignment(AlignmentConfig("mini", 1, 6), {}, *run("alignment"))
        for path in sorted(root.glob("*/*.parquet")):
            files[f"{path.parent.name}/{path.name}"] = path
        yield files


def content_of(path: Path) -> str:
    """The digest of what a file says: schema with metadata, sizes of the groups of rows, compression, rows."""
    file = pyarrow.parquet.ParquetFile(path)
    groups = [file.metadata.row_group(place) for place in range(file.metadata.num_row_groups)]
    packed = [[group.column(at).compression for at in range(group.num_columns)] for group in groups]
    schema = file.schema_arrow.to_string(truncate_metadata=False)
    said = [schema, [group.num_rows for group in groups], packed, repr(file.read().to_pylist())]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def test_the_files_of_a_task_say_what_they_said_before(written: dict[str, Path]) -> None:
    assert {name: content_of(path) for name, path in written.items()} == GOLDEN["content"]


@pytest.mark.skipif(
    pyarrow.__version__ != GOLDEN["pyarrow"], reason=f"the bytes are those of pyarrow {GOLDEN['pyarrow']}"
)
def test_the_files_of_a_task_have_the_bytes_that_they_had_before(written: dict[str, Path]) -> None:
    found = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in written.items()}
    assert found == GOLDEN["bytes"]


def test_a_column_of_a_published_row_is_an_attribute_of_row_with_the_same_default() -> None:
    """But for its name on disk, and its picture, which is bytes or a path there."""
    row = Row(0, None, "Who?")
    for column in PUBLISHED:
        if column not in (ID, IMAGE, INSTRUCTION, ANSWER):
            assert getattr(row, column.name) == column.default, column.name


def test_a_file_that_lacks_a_column_is_read_as_if_no_row_had_anything_there(tmp_path: Path) -> None:
    rows = [{"id": name, "image": None, "instruction": "Who?", "answer": "I", "type": "open"} for name in ("a", "b")]
    write_rows(rows, DRAWN, tmp_path / "a.parquet")
    assert pyarrow.parquet.read_schema(tmp_path / "a.parquet").names == [column.name for column in DRAWN]
    read = read_columns(tmp_path / "a.parquet", JUDGED)
    assert read.columns == [column.name for column in JUDGED]
    assert read.row(1) == ("b", "I", [], "open", [], [], [], [])


def test_a_column_that_every_row_needs_is_asked_for_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"row 'a' has no 'instruction' \(question and template.*it has: id, answer"):
        write_rows([{"id": "a", "answer": "I"}], DRAWN, tmp_path / "a.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"id": ["a"]}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet has no column 'answer'; it has: id"):
        read_columns(tmp_path / "b.parquet", JUDGED)


@pytest.mark.parametrize("name", ["a[1]", "a?b", "a*", "{a,b}", "a%20b", "#1 ä"])
def test_a_path_is_no_pattern(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "a.parquet"
    path.parent.mkdir()
    image = {"bytes": b"a picture", "path": None}
    write_rows([{"id": "a", "image": image, "instruction": "?", "answer": "I", "type": ""}], DRAWN, path)
    assert read_columns(path, JUDGED)["id"].to_list() == ["a"]
    for in_memory in (True, False):
        [key], known = load_pictures(str(path), in_memory)
        assert key is not None and known[key].read() == b"a picture"


def test_nobody_gives_polars_a_path_that_it_may_take_for_a_pattern() -> None:
    root = Path(lilora.__file__).parents[1]
    found = 0
    for path in (path for package in ("lilora", "orchestrator") for path in (root / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
            if name in ("read_parquet", "scan_parquet", "read_parquet_schema", "read_csv", "scan_csv", "read_ndjson"):
                found += 1
                assert "glob=False" in ast.unparse(node), f"{path}: {ast.unparse(node)}"
    assert found

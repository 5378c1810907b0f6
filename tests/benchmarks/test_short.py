"""The run of the short benchmarks: what is written of one that succeeds, of one that fails, and of an unknown one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import short


def test_a_page_has_what_each_printed_and_a_failure_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(short, "SHORT", {"shared_backbone": ("--help",), "turns": (), "missing": ()})
    page = tmp_path / "short.md"
    assert short.main(["--out", str(page)]) == 1
    text = page.read_text()
    # `--help` ends with no JSON, a module without a program prints nothing, and there is no module `missing`.
    assert "`python -m benchmarks.shared_backbone --help`" in text and "--rounds ROUNDS" in text
    assert text.count("its last line is no JSON") == 2 and text.count("exit code 1") == 1
    assert "cores" in text and "torch" in text
    assert "failed: missing: exit code 1" in capfd.readouterr().out


def test_what_a_benchmark_says_last_is_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "short.md"
    monkeypatch.setitem(short.SHORT, "shared_backbone", ("--rounds", "2", "--rows", "1", "--tokens", "4"))
    assert short.main(["shared_backbone", "--out", str(page)]) == 0
    answer = json.loads(page.read_text().splitlines()[-2])
    assert set(answer["measured"]) == {"tiny_llava", "tiny_qwen2_vl"}
    # From 295 tokens a step on the reckoned gain is 1.
    assert answer["reckoned"]["16"]["4"] == 1.0


def test_an_unknown_benchmark_is_refused_with_the_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        short.main(["nothing"])
    assert "shared_backbone" in capsys.readouterr().err

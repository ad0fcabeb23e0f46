"""The log and its page."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import log_of, run_config

from dagl_cli.training.loop import train


def test_tensorboard(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(run_config(photos, tmp_path / "run", steps=2, tensorboard=True))
    assert list((tmp_path / "run").glob("events.out.tfevents.*"))


def test_few_photos_still_make_a_report(photos: Path, tmp_path: Path) -> None:
    for name in "cdefghi":
        (photos / f"{name}.png").unlink()
    train(run_config(photos, tmp_path / "run", steps=2))
    assert "no photo is held out" in str(log_of(tmp_path / "run")[0]["warning"])
    assert (tmp_path / "run/report.html").stat().st_size > 1000


@pytest.mark.parametrize(
    "line",
    [
        b"[1, 2]", b"3", b"null", b'"step"', b"{", b"\x00\xff\xfe\x80", b'{"step": "many", "loss": 1}',
        b'{"step": 1, "loss": "low"}', b'{"step": 1, "psnr": [30]}', b'{"step": null}', b'{"step": 1.5}',
        b'{"step": 1, "loss": NaN}', b'{"step": 1, "loss": 1e999}', b'{"step": 1, "loss": 1' + b"0" * 400 + b"}",
        b"[" * 100_000, b'{"step": 1' + b"0" * 5000 + b"}", b'{"step": true}',
    ],
    ids=range(17),
)  # fmt: skip
def test_a_damaged_log_does_not_stop_the_run(photos: Path, tmp_path: Path, line: bytes) -> None:
    run = run_config(photos, tmp_path / "run", steps=1)
    train(run)
    path = run.output / "log.jsonl"
    path.write_bytes(line + b"\n" + path.read_bytes() + line)
    train(run_config(photos, tmp_path / "run", steps=2), resume=True)
    assert [row["step"] for row in log_of(run.output)] == [1, 2]

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mit_builder.errors import ConfigError
from mit_builder.planning.forecast import Estimate, draw, predict, student
from mit_builder.planning.sample_plan import FORECAST_KEY, compare, load_forecast
from mit_builder.storage.workspace import Workspace

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import forecast as bench


@pytest.mark.parametrize(("n_free", "t"), [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (29, 2.045)])
def test_quantiles_are_those_of_the_tables(n_free: int, t: float) -> None:
    assert student(n_free) == pytest.approx(t, rel=0.02)


@given(sizes=st.lists(st.floats(0.1, 1000), min_size=1, max_size=60), n=st.integers(2, 20), seed=st.integers(0, 2**31))
def test_so_many_different_sources_are_drawn_the_same_for_one_seed(sizes: list[float], n: int, seed: int) -> None:
    drawn = draw(np.array(sizes), n, seed)
    assert len(set(drawn)) == len(drawn) == min(n, len(sizes))
    assert set(drawn) <= set(range(len(sizes)))
    assert drawn == draw(np.array(sizes), n, seed)


def test_long_sources_are_drawn_more_often_and_one_that_outweighs_the_others_always() -> None:
    sizes = np.array([1.0] * 30 + [3.0] * 10)
    counts = np.zeros(40)
    for seed in range(2000):
        counts[draw(sizes, 4, seed)] += 1
    assert counts[30:].mean() / counts[:30].mean() == pytest.approx(3.0, rel=0.1)
    assert all(40 in draw(np.append(sizes, 100.0), 4, seed) for seed in range(50))


def test_work_in_proportion_to_size_is_forecast_exactly() -> None:
    made = predict([2.0, 8.0], [20.0, 80.0], [1.0, 4.0])
    assert (made.value, made.low, made.high) == pytest.approx((150.0, 150.0, 150.0))


def test_what_was_measured_is_never_in_doubt() -> None:
    made = predict([1.0, 1.0], [10.0, 30.0], [])
    assert (made.low, made.value, made.high) == (40.0, 40.0, 40.0)
    assert predict([1.0, 1.0], [1.0, 300.0], [1.0]).low >= 301.0


@pytest.mark.parametrize(("fixed", "scatter"), [(0.0, 0.2), (5.0, 0.2), (1.0, 0.8)])
def test_intervals_contain_what_comes_as_often_as_they_say(fixed: float, scatter: float) -> None:
    """Lists of 40 with 10:1 in size, work with a fixed part and a scatter, 4 probed."""
    random, inside, errors = np.random.default_rng(1), 0, []
    for seed in range(400):
        sizes = 10 ** random.uniform(0, 1, 40)
        work = (fixed + sizes) * random.lognormal(0, scatter, 40)
        drawn = draw(sizes, 4, seed)
        rest = np.delete(sizes, drawn)
        made = predict(sizes[drawn].tolist(), work[drawn].tolist(), rest)
        inside += made.contains(float(work.sum()))
        errors.append(abs(made.value / work.sum() - 1))
    assert inside / 400 > 0.85
    assert np.median(errors) < 0.3


def mit_build(*arguments: str) -> str:
    program = [sys.executable, "-m", "mit_builder", *arguments]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_sample_is_worked_on_and_kept_and_the_forecast_is_checked_against_the_run(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for i, n_frames in enumerate([30, 50, 80, 120, 200]):
        bench.write_video(tmp_path / "videos" / f"{i}.mp4", n_frames, np.random.default_rng(i))
    ws = str(tmp_path / "ws")
    asked = ["--stage", "download,shots", "--engine", "serial", "-w", ws, "--json"]
    said = [
        json.loads(line) for line in mit_build("plan", str(tmp_path / "videos"), "--probe", "2", *asked).splitlines()
    ]
    made = said[-1]
    assert (made["event"], made["n_sources"], len(made["sample"])) == ("forecast", 5, 2)
    assert made["by"] == "seconds of footage"
    assert set(made["stages"]) == {"download", "shots"}
    assert made["total"]["traffic_bytes"]["high"] == made["total"]["gpu_s"]["high"] == 0
    assert json.loads(mit_build("plan", "--check", "--json", "-w", ws))["inside"]["work_s"] in (True, False)
    (end,) = (json.loads(line) for line in mit_build("run", *asked).splitlines() if '"end"' in line)
    assert end["stages"]["shots"]["worked_on"] == 3
    checked = json.loads(mit_build("plan", "--check", "--json", "-w", ws))
    sizes = sum(path.stat().st_size for path in (tmp_path / "videos").iterdir())
    assert checked["actual"]["disk_bytes"] == sizes
    assert checked["inside"]["disk_bytes"]
    assert "5 of 5 sources worked on" in mit_build("plan", "--check", "-w", ws)


def test_a_forecast_that_is_not_there_or_damaged_is_one_line(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws")
    with pytest.raises(ConfigError, match=r"no forecast in .* yet: mit-build plan --probe 20"):
        compare(workspace)
    workspace.write(FORECAST_KEY, b"{}")
    with pytest.raises(ConfigError, match="is damaged: make another"):
        load_forecast(workspace)


def test_an_estimate_in_another_unit_contains_the_same() -> None:
    assert Estimate(2.0, 1.0, 4.0).scaled(0.5) == Estimate(1.0, 0.5, 2.0)
    assert Estimate(2.0, 1.0, 4.0).contains(1.0)
    assert not Estimate(2.0, 1.0, 4.0).contains(4.1)

"""Energy from counters that are there, and none from those that are not."""

from __future__ import annotations

from infimed.studies.energy import joules, read, words


def zone(folder, name, energy, span=1_000_000):
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "energy_uj").write_text(f"{energy}\n")
    (folder / name / "max_energy_range_uj").write_text(f"{span}\n")


def test_packages_are_summed_and_their_parts_are_not(tmp_path):
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        zone(tmp_path, name, 100)
    before = read(tmp_path)
    zone(tmp_path, "intel-rapl:0", 600)
    zone(tmp_path, "intel-rapl:1", 300)
    zone(tmp_path, "intel-rapl:0:0", 900_000)
    assert joules(before, read(tmp_path)) == 700 / 1e6


def test_a_counter_that_began_again_counts_once_round(tmp_path):
    zone(tmp_path, "intel-rapl:0", 999_000)
    before = read(tmp_path)
    zone(tmp_path, "intel-rapl:0", 500)
    assert joules(before, read(tmp_path)) == 1500 / 1e6


def test_without_counters_energy_is_unavailable(tmp_path):
    assert read(tmp_path) is None and read(tmp_path / "missing") is None
    assert words(joules(None, None)) == "unavailable"
    zone(tmp_path, "intel-rapl:0", 1)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("nothing")
    assert read(tmp_path) is None


def test_counters_of_another_machine_are_not_subtracted(tmp_path):
    zone(tmp_path, "intel-rapl:0", 1)
    one = read(tmp_path)
    zone(tmp_path, "intel-rapl:1", 1)
    assert joules(one, read(tmp_path)) is None

import json
from dataclasses import replace

import numpy as np
import pytest
from pair_samples import TINY, write_pairs
from scipy import stats

from training.data.arrays import read_arrays
from training.data.datasets import load
from training.data.pairs import PairError
from training.evaluate.protocols import Options
from training.studies.ablation import (
    AblationError,
    Study,
    ablate,
    epochs_within,
    histories,
    run_folder,
    table_2,
)
from training.studies.ablation_table import interval, markdown, summary

SHORT = (*TINY, "batch_size=4", "epochs=2", "queue_length=4", "queue_start_epoch=0")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return load("folder", write_pairs(tmp_path_factory.mktemp("pairs"), 4), "all")


def test_each_row_lacks_one_part_of_the_method():
    rows = table_2(SHORT, modern=True)
    full = rows.pop("msae-demo")
    assert rows["w/o IPT"].encoder.preprocessing.projection == "none"
    assert not rows["w/o MSAE"].encoder.network.attention
    assert (rows["w/o GMS"].queue_length, full.queue_length) == (0, 4)
    assert {recipe.epochs for recipe in rows.values()} == {2}
    assert len({recipe.name for recipe in (full, *rows.values())}) == 5
    modern = rows["skyfix-modern"]
    assert (modern.encoder, modern.pretrained) == (full.encoder, False)
    assert (modern.loss, modern.sampling) == ("info_nce", "hard")


def test_a_study_resumes_and_makes_its_table(pairs, tmp_path):
    rows = {name: recipe for name, recipe in table_2(SHORT).items() if name != "w/o IPT"}
    first = ablate(Study(rows, [0]), pairs, {"same": pairs}, tmp_path)
    assert first["rows"]["w/o GMS"]["interval"] is None
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("0/*")}
    assert len(before) == 3 * 5
    study = Study(rows, [0, 1])
    table = ablate(study, pairs, {"same": pairs}, tmp_path)
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert table["rows"]["msae-demo"]["difference"] == 0.0
    assert run_folder(tmp_path, "w/o GMS", 1).is_dir()
    text = markdown(table).splitlines()
    assert len(text) == 2 + 3 + 2
    assert "| w/o MSAE | " in text[3]
    assert text[-1] == f"N = {len(pairs)}, K = 1; 2 seeds; differences are paired by seed."
    drawn = histories(study, tmp_path)
    assert list(drawn) == ["msae-demo", "w/o GMS"]
    assert [len(run) for run in drawn["w/o GMS"]] == [2, 2]
    with pytest.raises(AblationError, match=r"plan.json is of another study"):
        ablate(Study(rows, [0], minutes=1.0), pairs, {"same": pairs}, tmp_path)


def test_results_of_other_data_or_options_are_never_reused(pairs, tmp_path):
    rows = {"msae-demo": table_2(SHORT)["msae-demo"]}
    study, held_out = Study(rows, [0]), {"same": pairs}
    table = ablate(study, pairs, held_out, tmp_path)
    assert ablate(study, pairs, {"under another name": pairs}, tmp_path) == table
    wide = replace(study, options=Options(near_m=9.0))
    for named, asked, trained, measured in [
        ("training", study, pairs[1:], held_out),
        ("validation", study, pairs, {"same": pairs[:-1]}),
        ("validation", study, pairs, {"same": pairs, "more": pairs}),
        ("options", wide, pairs, held_out),
        ("device", replace(study, device="cuda"), pairs, held_out),
        ("minutes, training", replace(study, minutes=1.0), pairs[::-1], held_out),
    ]:
        with pytest.raises(AblationError, match=rf"plan.json is of another study: {named} differ"):
            ablate(asked, trained, measured, tmp_path)
    plan = json.loads((tmp_path / "plan.json").read_text())
    old = {key: plan["asked"][key] for key in ("minutes", "protocols", "rows")}
    (tmp_path / "plan.json").write_text(json.dumps({**plan, "asked": old}))
    with pytest.raises(AblationError, match="training, validation, options, device differ"):
        ablate(study, pairs, held_out, tmp_path)
    (tmp_path / "plan.json").unlink()
    with pytest.raises(AblationError, match=r"results without a plan\.json"):
        ablate(study, pairs, held_out, tmp_path)


def test_an_unreadable_pair_is_left_out_of_training_and_refused_in_validation(
    pairs, tmp_path, caplog
):
    rows = {"msae-demo": table_2((*SHORT, "batch_size=33", "epochs=1"))["msae-demo"]}
    broken = replace(pairs[0], id="broken", street=tmp_path / "none.png")
    many = [*(pairs * 25)[1:], broken]
    ablate(Study(rows, [0]), many, {"sound": pairs}, tmp_path / "out")
    assert "1 of 100 pairs cannot be read" in caplog.text
    with pytest.raises(PairError, match="1 of 100 pairs cannot be read; first: broken"):
        ablate(Study(rows, [0]), pairs, {"broken": many}, tmp_path / "other")


def test_differences_are_paired_by_seed():
    """Seeds differ widely, rows by 10 points in every seed, so the interval is a point."""
    full = {seed: {"centre": {"1": 0.2 + 0.2 * seed, "N": 4.0}} for seed in range(3)}
    less = {seed: {"centre": {"1": 0.1 + 0.2 * seed, "N": 4.0}} for seed in range(3)}
    row = summary({"full": full, "less": less}, "centre")["rows"]["less"]
    assert row["difference"] == pytest.approx(-0.1)
    assert row["interval"] == pytest.approx((-0.1, -0.1))
    assert row["deviation"]["1"] == pytest.approx(0.2)


def test_the_interval_equals_student_s_test():
    differences = np.random.default_rng(0).normal(size=5).tolist()
    expected = stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
    assert interval(differences) == pytest.approx(tuple(expected))


def test_a_budget_buys_epochs_in_proportion(pairs):
    recipe = table_2(SHORT)["msae-demo"]
    arrays = read_arrays(pairs, recipe.encoder, recipe.offset_m)
    assert epochs_within(1e-9, recipe, arrays, "cpu") == 1
    assert epochs_within(10.0, recipe, arrays, "cpu") > 20


def test_a_study_needs_seeds_and_validation_pairs(pairs, tmp_path):
    with pytest.raises(AblationError, match="at least one row and one seed"):
        Study(table_2(SHORT), [])
    with pytest.raises(AblationError, match="needs a validation set"):
        ablate(Study(table_2(SHORT), [0]), pairs, {}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_plan_is_json_with_the_resolved_recipes(pairs, tmp_path):
    rows = {"msae-demo": table_2(SHORT)["msae-demo"]}
    ablate(Study(rows, [3]), pairs, {"same": pairs}, tmp_path)
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["epochs"] == {"msae-demo": 2}
    assert plan["asked"]["rows"]["msae-demo"]["batch_size"] == 4

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from dataset_samples import vigor_tree
from pair_samples import TINY, write_pairs

from model.checkpoint import Checkpoint
from model.encoder import Encoder
from training.__main__ import main
from training.cli import train as train_command

OVERRIDES = [
    text for override in (*TINY, "batch_size=4", "epochs=1") for text in ("--set", override)
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("data"), 4)


@pytest.fixture(scope="module")
def weights(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    common = ["train", "msae-demo", str(data), "--dataset", "folder", "--split", "all"]
    held_out = ["--validation", str(data), "--validation-split", "all"]
    assert main([*common, "--out", str(out), *held_out, *OVERRIDES]) == 0
    return out / "best.safetensors"


def evaluate(data, weights, *more):
    common = ["evaluate", *map(str, data), "--dataset", "folder", "--split", "all"]
    return main([*common, "--weights", str(weights), *more])


def test_train_stores_recipe_data_and_seed(weights):
    provenance = Checkpoint.load(weights).provenance
    assert provenance["data"] == "folder, 4 pairs"
    assert provenance["seed"] == 0
    assert provenance["recipe"]["batch_size"] == 4
    assert Checkpoint.load(weights).config.preprocessing.input_size == 32


def test_several_seeds_train_like_each_seed_alone(data, tmp_path, capsys):
    common = ["train", "msae-demo", str(data), "--dataset", "folder", "--split", "all"]
    assert main([*common, "--out", str(tmp_path), "--seed", "0-1", *OVERRIDES]) == 0
    paths = [tmp_path / seed / "last.safetensors" for seed in "01"]
    assert capsys.readouterr().out.split() == [str(path) for path in paths]
    first, second = (Checkpoint.load(checkpoint) for checkpoint in paths)
    assert (first.provenance["seed"], second.provenance["seed"]) == (0, 1)
    assert main([*common, "--out", str(tmp_path / "alone"), "--seed", "1", *OVERRIDES]) == 0
    alone = Checkpoint.load(tmp_path / "alone" / "last.safetensors")
    assert first.fingerprint != second.fingerprint == alone.fingerprint


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_a_precision_that_is_slow_on_this_processor_is_logged(data, tmp_path, caplog, precision):
    common = ["train", "msae-demo", str(data), "--dataset", "folder", "--split", "all"]
    more = ["--out", str(tmp_path), "--device", "cpu", "--set", f"precision={precision}"]
    assert main([*common, *OVERRIDES, *more]) == 0
    slow = precision == "bf16" and not torch.cpu.get_capabilities().get("amx_bf16")
    assert ("no AMX" in caplog.text) == slow
    assert ("fp16 takes" in caplog.text) == (precision == "fp16")


def test_evaluate_prints_one_json_document(data, weights, capsys):
    assert evaluate([data], weights, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["encoder"] == Encoder.load(weights).fingerprint
    figures = document["mean"]["centre"]
    assert (figures["N"], figures["K"]) == (4, 1)
    assert 0 <= figures["1"] <= figures["5"] == 1
    assert document["each"][str(data)]["centre"] == figures


def test_weights_with_quarter_turns_are_evaluated_like_others(data, weights, tmp_path, capsys):
    before = Checkpoint.load(weights)
    calibrated = replace(before, provenance={**before.provenance, "calibration": {"depth": 1}})
    calibrated.save(tmp_path / "before.safetensors")
    out = tmp_path / "turned.safetensors"
    assert main(["turn", str(tmp_path / "before.safetensors"), "--out", str(out)]) == 0
    after = Checkpoint.load(out)
    assert after.config == replace(before.config, turns=4)
    assert after.provenance == {**before.provenance, "turned_from": before.fingerprint}
    capsys.readouterr()
    assert evaluate([data], out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["encoder"] == after.fingerprint


def test_a_mean_lies_half_way_and_names_its_checkpoints(data, weights, tmp_path, capsys):
    before = Checkpoint.load(weights)
    other = replace(before, tensors={name: 3.0 * tensor for name, tensor in before.tensors.items()})
    other.save(tmp_path / "other.safetensors")
    out = tmp_path / "mean.safetensors"
    assert main(["mean", str(weights), str(tmp_path / "other.safetensors"), "--out", str(out)]) == 0
    after = Checkpoint.load(out)
    for name, tensor in before.tensors.items():
        torch.testing.assert_close(after.tensors[name], 2.0 * tensor)
    assert after.provenance["mean_of"] == [before.fingerprint, other.fingerprint]
    capsys.readouterr()
    assert evaluate([data], out) == 0


def test_weights_of_different_encoders_have_no_mean(weights, tmp_path, capsys):
    before = Checkpoint.load(weights)
    turned, out = tmp_path / "turned.safetensors", tmp_path / "mean.safetensors"
    replace(before, config=replace(before.config, turns=4)).save(turned)
    assert main(["mean", str(weights), str(turned), "--out", str(out)]) == 1
    assert f"{turned} is another encoder than {weights}" in capsys.readouterr().err
    assert not out.exists()


def test_evaluate_averages_its_folders(data, weights, tmp_path, capsys):
    other = write_pairs(tmp_path / "other", 2, first_seed=9)
    assert evaluate([data, other], weights, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["mean"]["centre"]["N"] == 3
    assert [figures["centre"]["N"] for figures in document["each"].values()] == [4, 2]


def test_evaluate_averages_checkpoints_and_writes_markdown(data, weights, capsys):
    protocols = ("--protocol", "centre,rolls,fov", "--rolls", "2", "--fov", "90")
    last = str(weights.with_name("last.safetensors"))
    assert evaluate([data], weights, last, "--json", *protocols) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document["mean"]) == ["centre", "rolls", "fov-90"]
    assert [checkpoint["weights"] for checkpoint in document["checkpoints"]] == [str(weights), last]
    assert document["deviation"]["centre"]["N"] == 0
    assert "best of 2 headings" in document["protocols"]["rolls"]
    assert evaluate([data], weights, "--markdown", *protocols) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].startswith("| protocol | R@1 | R@5 | R@10 | R@1% | within 10 m")
    assert {line.count("|") for line in table[:5]} == {table[0].count("|")}


def test_ablate_writes_table_and_curve_and_figures_draws(data, weights, tmp_path, capsys):
    common = ["--dataset", "folder", "--split", "all", "--out", str(tmp_path)]
    study = ["--validation", str(data), "--seeds", "0-1", *OVERRIDES]
    study += ["--validation-split", "all"]
    assert main(["ablate", str(data), *common, *study]) == 0
    assert capsys.readouterr().out == (tmp_path / "table.md").read_text()
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert list(rows) == ["msae-demo", "w/o IPT", "w/o MSAE", "w/o GMS"]
    assert {row["seeds"] for row in rows.values()} == {2}
    assert main(["figures", str(data), *common, "--weights", str(weights), "--rows", "2"]) == 0
    drawn = [tmp_path / f"{name}.png" for name in ("attention", "descriptors", "retrieval")]
    assert capsys.readouterr().out.splitlines() == list(map(str, drawn))
    assert all(picture.is_file() for picture in [*drawn, tmp_path / "curve.png"])
    assert main(["figures", str(data), *common, "--weights", str(weights), "--missed"]) == 0
    assert " of 4 are not first: " in capsys.readouterr().out.splitlines()[0]


def test_too_few_pairs_for_a_figure_are_refused_before_any_is_drawn(
    data, weights, tmp_path, capsys
):
    common = ["--dataset", "folder", "--split", "all", "--out", str(tmp_path), "--pairs", "2"]
    assert main(["figures", str(data), *common, "--weights", str(weights)]) == 1
    assert "2 pairs make no t-SNE: at least 3" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def mixed(folder):
    """Four pairs of the split "mine", two of "val"."""
    table = write_pairs(folder, 6) / "pairs.csv"
    rows = table.read_text().splitlines()
    splits = ["split", *["mine"] * 4, *["val"] * 2]
    table.write_text("".join(f"{a},{b}\n" for a, b in zip(rows, splits, strict=True)))
    return folder


@pytest.mark.parametrize("command", ["train", "ablate"])
def test_training_pairs_are_evaluated_only_on_request(tmp_path, command, caplog):
    root = str(mixed(tmp_path / "data"))
    recipe = ["msae-demo"] if command == "train" else []
    common = [command, *recipe, root, "--dataset", "folder", "--validation", root, *OVERRIDES]
    common += ["--seed" if command == "train" else "--seeds", "0", "--split", "mine"]
    for split, count in [([], 2), (["--validation-split", "mine"], 4)]:
        out = tmp_path / str(count)
        assert main([*common, "--out", str(out), *split]) == 0
        log = out if command == "train" else out / "msae-demo" / "0"
        assert json.loads((log / "log.jsonl").read_text())["N"] == count
        assert ("4 of 4 pairs to measure with" in caplog.text) == bool(split)


def test_the_document_states_split_queries_and_options(data, weights, tmp_path, capsys):
    asked = ("--protocol", "near,fov", "--fov", "90,180", "--near-m", "7", "--seed", "5")
    other = write_pairs(tmp_path / "other", 2, first_seed=9)
    assert evaluate([data, other], weights, "--json", *asked) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["split"] == "all"
    assert document["queries"] == {str(data): 4, str(other): 2}
    options = document["options"]
    assert (options["seed"], options["near_m"], options["fov_deg"]) == (5, 7.0, [90.0, 180.0])
    assert "any within 7 m is right" in document["protocols"]["near"]
    assert evaluate([data, other], weights, "--markdown", *asked) == 0
    caption = "folder, split all: 6 queries in 2 sets, averaged; seed 5; 90, 180 degrees seen."
    assert caption in capsys.readouterr().out.splitlines()


def test_vigor_is_measured_on_its_own_test_split(weights, tmp_path, capsys):
    root = str(vigor_tree(tmp_path))
    common = ["evaluate", root, "--dataset", "vigor", "--weights", str(weights), "--json"]
    assert main([*common, "--protocol", "vigor"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["split"], document["queries"]) == ("same-test", {root: 1})


def test_figures_leave_out_an_unreadable_pair(data, weights, tmp_path, caplog):
    rows = (data / "pairs.csv").read_text().splitlines()
    many = [*(rows[1:] * 25)[1:], rows[1].replace("street-0", "broken")]
    root = shutil.copytree(data, tmp_path / "data")
    (root / "pairs.csv").write_text("\n".join([rows[0], *many]))
    (root / "broken.png").write_bytes(b"broken")
    common = ["--dataset", "folder", "--split", "all", "--out", str(tmp_path)]
    assert main(["figures", str(root), *common, "--weights", str(weights), "--rows", "1"]) == 0
    assert "1 of 100 pairs cannot be read" in caplog.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_auto_uses_the_cpu_and_cuda_is_refused(data, weights, capsys, caplog):
    caplog.set_level(logging.INFO)
    assert evaluate([data], weights) == 0
    assert "device cpu (asked for auto)" in caplog.text
    assert evaluate([data], weights, "--device", "cuda") == 1
    assert "skyfix-train: --device cuda, but no CUDA GPU answers" in capsys.readouterr().err


def test_train_writes_tensorboard_events_beside_the_log(data, tmp_path):
    common = ["train", "msae-demo", str(data), "--dataset", "folder", "--split", "all"]
    assert main([*common, "--out", str(tmp_path), "--tensorboard", *OVERRIDES]) == 0
    (events,) = tmp_path.glob("events.out.tfevents.*")
    assert b"loss" in events.read_bytes()
    assert (tmp_path / "log.jsonl").is_file()


def test_the_table_of_evaluate_names_weights_data_and_protocol(data, weights, capsys):
    assert evaluate([data], weights) == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == f"weights {weights} ({Encoder.load(weights).fingerprint[:12]})"
    assert second == "folder, split all: 4 queries; seed 0."
    assert third.startswith("centre   R@1 ")
    assert "  R@5 100.0  " in third


@pytest.mark.parametrize(
    ("option", "names"),
    [
        ("--rolls=0", "rolls is 0"),
        ("--rolls=-3", "rolls is -3"),
        ("--stride-m=0", "stride_m is 0"),
        ("--stride-m=nan", "stride_m is nan"),
        ("--near-m=-1", "near_m is -1"),
        ("--fov=90,400", "fov_deg holds 400"),
        ("--fov=0", "fov_deg holds 0"),
    ],
)
def test_numbers_that_measure_nothing_are_refused(data, weights, capsys, option, names):
    assert evaluate([data], weights, option) == 1
    streams = capsys.readouterr()
    assert names in streams.err
    assert streams.out == ""


@pytest.mark.parametrize(
    "words",
    [
        ["train", "msae-demo", "x", "--out", "y", "--workers", "0"],
        ["figures", "x", "--weights", "w", "--out", "y", "--rows", "0"],
        ["figures", "x", "--weights", "w", "--out", "y", "--pairs", "-1"],
        ["synth", "x", "--panoramas", "0"],
    ],
)
def test_a_number_below_1_is_wrong_usage(capsys, words):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert f"{words[-1]}: it must be 1 or more" in capsys.readouterr().err


def test_a_study_without_time_is_refused(data, tmp_path, capsys):
    common = ["ablate", str(data), "--validation", str(data), "--dataset", "folder"]
    assert main([*common, "--out", str(tmp_path), "--budget-minutes", "-1"]) == 1
    assert "minutes is -1" in capsys.readouterr().err


def test_a_finished_run_is_not_trained_again(data, weights, tmp_path, capsys, caplog):
    caplog.set_level(logging.INFO)
    out = shutil.copytree(weights.parent, tmp_path / "out")
    before = (out / "last.safetensors").stat().st_mtime_ns
    common = ["train", "msae-demo", str(data), "--dataset", "folder", "--split", "all"]
    assert main([*common, "--out", str(out), *OVERRIDES]) == 0
    assert f"{out} holds this run, finished after 1 epochs" in caplog.text
    assert capsys.readouterr().out.split() == [str(out / "last.safetensors")]
    assert (out / "last.safetensors").stat().st_mtime_ns == before


def test_an_interrupt_explains_how_to_resume(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("training.data.datasets.load", interrupted)
    assert main(["train", "msae-demo", "x", "--out", "y"]) == 130
    assert "the same command resumes a training run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (
            ["evaluate", "none", "--weights", "none.safetensors"],
            "no checkpoint at none.safe",
        ),
        (["train", "msae-huge", "none", "--out", "out"], "recipe 'msae-huge' is unknown"),
        (["train", "msae-demo", "none", "--out", "out", "--set", "epoch=1"], "no field 'epoch'"),
        (["train", "msae-demo", "none", "--out", "out", "--dataset", "cvusa"], "train-19zl.csv"),
        (["train", "msae-demo", "none", "--out", "out"], "no town at none"),
    ],
)
def test_an_error_is_one_line_and_exit_code_1(arguments, names, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    streams = capsys.readouterr()
    assert streams.out == ""
    (line,) = [line for line in streams.err.splitlines() if line.startswith("skyfix-train: ")]
    assert names in line
    assert "Traceback" not in streams.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--set", "batch_size=5"], "4 pairs do not fill one batch of 5"),
        (["--set", "encoder.network.neck=3", "--init", "best.safetensors"], "the initial weights"),
        (["--init", "absent.safetensors"], "no checkpoint at absent.safetensors"),
        (["--set", "frozen_maps=1"], "frozen_maps is 1"),
        (["--out", "best.safetensors"], "--out is a file: 'best.safetensors'"),
    ],
)
def test_an_impossible_run_is_refused_before_pairs_are_read(
    arguments, names, data, weights, capsys, monkeypatch
):
    def read(*_):
        raise AssertionError

    monkeypatch.chdir(weights.parent)
    monkeypatch.setattr(train_command, "read_arrays", read)
    common = ["train", "msae-demo", str(data), "--dataset", "folder", "--split", "all"]
    assert main([*common, "--out", "out", *OVERRIDES, *arguments]) == 1
    assert names in capsys.readouterr().err
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "error", [MemoryError("9 GB"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 GB")]
)
def test_full_memory_is_one_line(error, data, tmp_path, capsys, monkeypatch):
    def train(*_, **__):
        raise error

    monkeypatch.setattr(train_command, "train", train)
    common = ["train", "msae-demo", str(data), "--dataset", "folder", "--split", "all"]
    assert main([*common, "--out", str(tmp_path), *OVERRIDES]) == 1
    assert "9 GB: choose a smaller batch or network" in capsys.readouterr().err
    error = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        main([*common, "--out", str(tmp_path), *OVERRIDES])


@pytest.mark.parametrize("seed", [f"{2**63}", f"0-{2**63}", "3-2"])
def test_impossible_seeds_are_wrong_usage(seed, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "msae-demo", "data", "--out", "out", "--seed", seed])
    assert stopped.value.code == 2
    assert "seed" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_one_line(data, tmp_path, capsys):
    (tmp_path / "file").touch()
    common = ["train", "msae-demo", str(data), "--dataset", "folder", "--split", "all"]
    for out in ("file", "file/out"):
        assert main([*common, "--out", str(tmp_path / out), *OVERRIDES]) == 1
        said = capsys.readouterr().err
        assert "skyfix-train: " in said
        assert "msae-demo ━" not in said  # before anything is trained

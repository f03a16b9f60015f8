import errno
import json
import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pair_samples import NOT_AUGMENTED, tiny, write_pairs
from safetensors import safe_open

from model.checkpoint import Checkpoint
from model.encoder import Encoder
from model.errors import PretrainedError
from training.data.arrays import Arrays, read_arrays
from training.data.augmentation import Batch, batches
from training.data.datasets import load
from training.data.sampling import order
from training.evaluate.encoded_pairs import measure_centre
from training.recipes import find
from training.run.folder_lock import LockedError, locked
from training.run.loop import rate, train
from training.run.start import start
from training.run.state import ResumeError, TrainingError
from training.run.step import step

STILL = (
    *NOT_AUGMENTED,
    "queue_length=0",
    "learning_rate=3e-4",
    "weight_decay=0",
)


def recipe(*overrides):
    return tiny(*STILL, "batch_size=4", "epochs=2", *overrides)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    folder = write_pairs(tmp_path_factory.mktemp("pairs"), 8)
    return read_arrays(load("folder", folder, "all"), recipe().encoder, 0.0)


def logged(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_eight_pairs_can_be_overfitted(arrays, tmp_path):
    """An overfit shows that loss, gradient and both branches work together."""
    chosen = recipe("batch_size=8", "epochs=14", "warmup_steps=5")
    path = train(chosen, arrays, tmp_path, validation=arrays, provenance={"data": "worlds"})
    assert path == tmp_path / "last.safetensors"
    assert measure_centre(Encoder.load(path), arrays)["1"] == 1.0
    report = logged(tmp_path)
    assert [record["epoch"] for record in report] == list(range(14))
    assert report[0]["loss"] > math.log(2)
    assert report[-1]["loss"] < 0.1
    assert max(record["1"] for record in report) == 1.0
    checkpoint = Checkpoint.load(path)
    assert checkpoint.provenance["recipe"] == json.loads(json.dumps(chosen.as_dict()))
    assert (checkpoint.provenance["data"], checkpoint.provenance["epochs"]) == ("worlds", 14)
    best = Encoder.load(tmp_path / "best.safetensors")
    assert measure_centre(best, arrays)["1"] == 1.0
    assert {file.name for file in tmp_path.iterdir()} == {
        "best.safetensors",
        "last.safetensors",
        "log.jsonl",
        "state.safetensors",
    }


@pytest.mark.parametrize("projection", ["polar", "ground", "none"])
@pytest.mark.parametrize("loss", ["triplet", "info_nce"])
def test_every_projection_and_loss_takes_a_step(arrays, projection, loss):
    chosen = recipe(f"encoder.preprocessing.projection={projection}", f"loss={loss}", "mirror=true")
    state = start(chosen, arrays, 0, "cpu")
    before = {name: parameter.clone() for name, parameter in state.network.named_parameters()}
    assert math.isfinite(step(state, whole(arrays), chosen, "cpu").wait())
    moved = [
        not torch.equal(parameter, before[name])
        for name, parameter in state.network.named_parameters()
        if "attention" not in name  # the mask of so small an input is one cell: no gradient
    ]
    assert np.mean(moved) > 0.9


def whole(arrays):
    """All pairs as one batch, without augmentation."""
    strips, tiles = (
        torch.from_numpy(images).permute(0, 3, 1, 2) for images in (arrays.strips, arrays.chips)
    )
    positions = torch.from_numpy(arrays.positions)
    ids = torch.arange(len(arrays))
    return Batch(strips, torch.from_numpy(arrays.norths), tiles, ids, positions, positions)


def test_the_stored_weights_are_the_average(arrays, tmp_path):
    chosen = recipe("ema=0.9", "epochs=1", "stored=fp32")
    stored = Checkpoint.load(train(chosen, arrays, tmp_path)).tensors
    state = start(chosen, arrays, 0, "cpu")
    seen, taken = [], order(chosen, arrays.positions, 0, 0)
    for number, batch in enumerate(batches(arrays, chosen, 0, 0, taken)):
        for group in state.optimiser.param_groups:
            group["lr"] = chosen.learning_rate * rate(chosen, 2, number)
        step(state, batch, chosen, "cpu")
        seen.append({name: tensor.clone() for name, tensor in state.network.state_dict().items()})
    for name, tensor in stored.items():
        # 12: two steps, and ten that `TrainingState.average` adds for a quick beginning.
        expected = seen[0][name].lerp(seen[1][name], 10 / 12)
        torch.testing.assert_close(tensor, expected, atol=1e-6, rtol=1e-5)
    assert any((tensor != seen[1][name]).any() for name, tensor in stored.items())


def test_the_counters_of_batch_norm_are_copied_into_the_average(arrays, tmp_path):
    chosen = recipe("ema=0.9", "encoder.network.trunk=resnet18", "epochs=1", "stored=fp32")
    stored = Checkpoint.load(train(chosen, arrays, tmp_path))
    counts = [tensor for name, tensor in stored.tensors.items() if "num_batches" in name]
    assert len(counts) == 2 * 20  # layers with batch norm in ResNet18, on both branches
    assert all(count.dtype == torch.int64 and count.item() == 2 for count in counts)
    assert math.isfinite(measure_centre(Encoder(stored), arrays)["1"])


def test_the_queue_joins_the_loss_after_its_start_epoch(arrays, tmp_path):
    def losses(name, *overrides):
        out = tmp_path / name
        train(recipe("epochs=3", *overrides), arrays, out)
        with safe_open(out / "state.safetensors", framework="pt") as state:
            ids = "queue/tile_ids" in state.keys() and state.get_tensor("queue/tile_ids")  # noqa: SIM118
        return [record["loss"] for record in logged(out)], ids

    plain, no_queue = losses("without")
    mined, ids = losses("with", "queue_length=6", "queue_hardest=2", "queue_start_epoch=1")
    assert no_queue is False
    assert len(ids) == 6  # of 2 x 2 x 2 rows mined in epochs 1 and 2
    assert mined[0] == plain[0]
    assert mined[1] > plain[1]  # the queue's mean is added from the second step on


def test_the_seed_decides_everything(arrays, tmp_path):
    def weights(name, seed, **options):
        augmented = recipe("rotation=joint", "heading_noise_deg=6", "epochs=1")
        path = train(augmented, arrays, tmp_path / name, seed=seed, **options)
        return Checkpoint.load(path).fingerprint

    first = weights("a", 0)
    assert weights("b", 0, validation=arrays) == first
    assert weights("c", 1) != first


def test_a_finished_run_is_not_trained_again_and_another_recipe_is_refused(arrays, tmp_path):
    path = train(recipe("epochs=1"), arrays, tmp_path)
    before = path.read_bytes()
    assert train(recipe("epochs=1"), arrays, tmp_path).read_bytes() == before
    for other, names in ((recipe("epochs=1", "alpha=5"), "alpha"), (recipe("epochs=2"), "epochs")):
        with pytest.raises(ResumeError, match=rf"another run \(not the same: {names}\)"):
            train(other, arrays, tmp_path)
    with pytest.raises(ResumeError, match=r"\(not the same: seed\)"):
        train(recipe("epochs=1"), arrays, tmp_path, seed=1)
    assert path.read_bytes() == before


def test_two_processes_do_not_train_in_one_folder(arrays, tmp_path):
    """The system locks an opened file: here another opening of the folder holds the lock."""
    with locked(tmp_path), pytest.raises(LockedError, match="another process is training in"):
        train(recipe("epochs=1"), arrays, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert train(recipe("epochs=1"), arrays, tmp_path).is_file()


def test_the_unfinished_file_of_a_killed_process_is_removed(arrays, tmp_path):
    rest = tmp_path / ".state.safetensors.123.tmp"
    rest.touch()
    train(recipe("epochs=1"), arrays, tmp_path)
    assert not rest.exists()


def test_a_file_system_without_locks_is_logged(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with locked(tmp_path / "new"):
        assert "new cannot be locked" in caplog.text


def test_other_pictures_of_the_same_pairs_are_another_run(arrays, tmp_path):
    """Without coordinates, as in CVUSA, only the pictures distinguish pairs."""
    nowhere = replace(arrays, positions=np.full_like(arrays.positions, np.nan))
    chosen = recipe("epochs=1")
    train(chosen, nowhere, tmp_path)
    train(chosen, replace(nowhere, chips=nowhere.chips.copy()), tmp_path)
    for other in ({"chips": arrays.chips[::-1]}, {"strips": arrays.strips[::-1]}):
        with pytest.raises(ResumeError, match=r"another run \(not the same: pairs\)"):
            train(chosen, replace(nowhere, **other), tmp_path)


@pytest.mark.parametrize(
    ("batch_size", "names"), [(4, "the loss is nan"), (8, "a weight is no longer a finite number")]
)
def test_divergence_leaves_the_last_checkpoint_intact(arrays, tmp_path, batch_size, names):
    """With one batch an epoch, the weights break before any loss is checked."""
    path = train(recipe("epochs=1"), arrays, tmp_path)
    before = path.read_bytes()
    (tmp_path / "state.safetensors").unlink()
    far = ("learning_rate=1e30", "stored=fp16", "queue_length=8")
    diverging = recipe(f"batch_size={batch_size}", *far)
    with pytest.raises(TrainingError, match=names):
        train(diverging, arrays, tmp_path)
    assert path.read_bytes() == before


def test_too_few_pairs_are_refused_and_nothing_is_written(arrays, tmp_path):
    with pytest.raises(TrainingError, match="8 pairs do not fill one batch of 9"):
        train(recipe("batch_size=9"), arrays, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_paper_s_rate_falls_to_a_tenth_after_80_epochs():
    paper = find("msae-vgg16")
    rates = [rate(paper, steps=555, step=555 * epoch) for epoch in (0, 79, 80, 99)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1])


def test_the_demo_s_rate_warms_up_and_falls_to_nothing():
    chosen = replace(find("msae-demo"), warmup_steps=10, epochs=5)
    rates = [rate(chosen, steps=20, step=step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert np.argmax(rates) == 9
    assert (np.diff(rates[10:]) < 0).all()
    assert rates[-1] < 0.001


def test_one_step_of_the_paper_s_recipe():
    """msae-vgg16 at 288 pixels, two pairs: every weight moves, none becomes NaN."""
    paper = replace(find("msae-vgg16"), batch_size=2, pretrained=False)
    random = np.random.default_rng(0)
    pictures = Arrays(
        random.integers(0, 256, (2, 224, 1232, 3), np.uint8),
        np.full(2, 0.5),
        random.integers(0, 256, (2, 288, 288, 3), np.uint8),
        np.full((2, 3), np.nan),
        0,
    )
    state = start(paper, pictures, 0, "cpu")
    state.optimiser.param_groups[0]["lr"] = state.optimiser.param_groups[1]["lr"] = 1e-4
    head = state.network.street.head.weight
    before = head[0].detach().clone()
    assert step(state, whole(pictures), paper, "cpu").wait() == pytest.approx(math.log(2), abs=0.5)
    for name, parameter in state.network.named_parameters():
        assert parameter.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
    assert (head[0] - before).abs().max().item() == pytest.approx(1e-4, rel=0.1)  # Adam's first


def test_a_killed_run_resumes_to_the_same_bits(arrays, tmp_path):
    """Stopped after step 3 of 4, in the second epoch, with a queue that is not empty."""
    chosen = recipe("rotation=joint", "heading_noise_deg=6", "queue_length=6", "queue_hardest=2")
    whole_run = train(chosen, arrays, tmp_path / "whole")
    state = start(chosen, arrays, 0, "cpu")
    for number in range(3):
        state.epoch, state.step = divmod(number, 2)
        for group in state.optimiser.param_groups:
            group["lr"] = chosen.learning_rate * rate(chosen, 2, number)
        state.order = order(chosen, arrays.positions, state.epoch, 0)
        batch = next(batches(arrays, chosen, state.epoch, 0, state.order, start=state.step))
        state.total_loss = step(state, batch, chosen, "cpu").wait()
    state.step += 1
    state.save(tmp_path / "killed" / "state.safetensors")
    resumed = train(chosen, arrays, tmp_path / "killed")
    assert Checkpoint.load(resumed).fingerprint == Checkpoint.load(whole_run).fingerprint
    assert logged(tmp_path / "killed")[-1] == logged(tmp_path / "whole")[-1]


def test_training_begins_with_given_weights_and_refuses_another_network_s(arrays):
    chosen = recipe()
    init = Checkpoint(chosen.encoder, chosen.encoder.build().state_dict())
    begun = start(chosen, arrays, 0, "cpu", init).network.state_dict()
    assert all(torch.equal(begun[name], tensor) for name, tensor in init.tensors.items())
    with pytest.raises(TrainingError, match="dimension=8"):
        start(recipe("encoder.network.dimension=8"), arrays, 0, "cpu", init)


def test_half_views_may_begin_with_the_weights_of_whole_views(arrays):
    chosen = recipe("encoder.turns=4", "encoder.network.half=true")
    whole = replace(chosen.encoder, network=replace(chosen.encoder.network, half=False))
    init = Checkpoint(whole, whole.build().state_dict())
    halves = start(chosen, arrays, 0, "cpu", init).network.street
    before = init.network().street
    features = torch.randn(2, halves.feature_channels, 2, 2)
    features[:, :, 1] = 0.0  # what lies behind
    torch.testing.assert_close(
        halves.head(features[:, :, :1].flatten(1)), before.head(features.flatten(1))
    )


class StoppedError(Exception):
    pass


def stop(report):
    raise StoppedError


def test_validation_may_begin_in_a_resumed_run(arrays, tmp_path):
    with pytest.raises(StoppedError):
        train(recipe(), arrays, tmp_path, on_epoch=stop)
    assert not (tmp_path / "best.safetensors").exists()
    last = train(recipe(), arrays, tmp_path, validation=arrays)
    assert ["1" in record for record in logged(tmp_path)] == [False, True]
    best = Checkpoint.load(tmp_path / "best.safetensors")
    assert best.fingerprint == Checkpoint.load(last).fingerprint


EVERY_STATE = ("ema=0.9", "queue_length=6", "queue_start_epoch=0", "sampling=hard")


@pytest.mark.filterwarnings("ignore:.*meta parameter")
def test_a_resumed_state_moves_to_the_chosen_device(arrays, tmp_path):
    """The meta device, which holds no values, is a second device of every machine."""
    chosen = recipe(*EVERY_STATE, "epochs=1")
    train(chosen, arrays, tmp_path)
    state = start(chosen, arrays, 0, "meta")
    assert state.resume(tmp_path / "state.safetensors")
    state.average(0.9)
    assert {tensor.device.type for tensor in state.averaged.values()} == {"meta"}


@pytest.mark.gpu
def test_a_run_with_every_kind_of_state_resumes_on_a_gpu(arrays, tmp_path, cuda):
    """Not to the bit: the order of a GPU's threads changes how sums round."""
    chosen = recipe(*EVERY_STATE)
    whole_run = train(chosen, arrays, tmp_path / "whole", device=cuda)
    with pytest.raises(StoppedError):
        train(chosen, arrays, tmp_path / "stopped", device=cuda, on_epoch=stop)
    halfway = Checkpoint.load(tmp_path / "stopped" / "last.safetensors").tensors
    resumed = Checkpoint.load(train(chosen, arrays, tmp_path / "stopped", device=cuda)).tensors
    expected = Checkpoint.load(whole_run).tensors
    apart = sum((resumed[name] - tensor).square().sum() for name, tensor in expected.items())
    way = sum((halfway[name] - tensor).square().sum() for name, tensor in expected.items())
    assert (apart / way).sqrt() < 0.1


def test_initial_weights_of_another_preprocessing_are_logged(arrays, caplog):
    other = recipe("encoder.preprocessing.projection=none", "encoder.aerial_footprint_m=40")
    init = Checkpoint(other.encoder, other.encoder.build().state_dict())
    with caplog.at_level(logging.WARNING):
        start(other, arrays, 0, "cpu", init)
        assert not caplog.records
        start(recipe(), arrays, 0, "cpu", init)
    (warning,) = (log_record.getMessage() for log_record in caplog.records)
    assert "projection none (the recipe: ground)" in warning
    assert "aerial_footprint_m 40.0 (the recipe: 24.0)" in warning
    assert "input_size" not in warning
    with pytest.raises(TrainingError, match=r"for 32 pixels.* for 64"):
        start(recipe("encoder.preprocessing.input_size=64"), arrays, 0, "cpu", init)


def test_frozen_weights_keep_their_initial_values(arrays, tmp_path):
    chosen = recipe("encoder.network.trunk=efficientnet_lite0", "frozen_maps=1", "ema=0.9")
    init = Checkpoint(chosen.encoder, chosen.encoder.build().state_dict())
    frozen = ("trunk.stem.", "trunk.stages.0.", "trunk.stages.1.")
    stopped = tmp_path / "stopped"
    with pytest.raises(StoppedError):
        train(chosen, arrays, stopped, init=init, on_epoch=stop)
    for out in (tmp_path / "whole", stopped):
        trained = Checkpoint.load(train(chosen, arrays, out, init=init)).tensors
        same = {name for name, tensor in trained.items() if torch.equal(tensor, init.tensors[name])}
        kept = {name for name in trained if any(part in name for part in frozen)}
        assert kept <= same
        assert not any(name.endswith("weight") for name in same - kept if ".trunk." in name)


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ((), "the frozen weights would stay random: set frozen_maps=0"),
        (("encoder.network.trunk=resnet18", "pretrained=true"), "resnet18 would .*frozen_maps=0"),
    ],
)
def test_maps_that_would_change_cannot_be_frozen(arrays, overrides, names):
    with pytest.raises(TrainingError, match=names):
        start(recipe("frozen_maps=1", *overrides), arrays, 0, "cpu")


def test_given_weights_need_no_download(arrays, tmp_path, monkeypatch):
    chosen = recipe("encoder.network.trunk=resnet18")
    init = Checkpoint(chosen.encoder, chosen.encoder.build().state_dict())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing"))
    (tmp_path / "nothing").touch()
    start(replace(chosen, pretrained=True), arrays, 0, "cpu", init)
    with pytest.raises(PretrainedError, match="--set pretrained=false"):
        start(replace(chosen, pretrained=True), arrays, 0, "cpu")

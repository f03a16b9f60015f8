import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pair_samples import tiny, write_pairs

from training import distributed
from training.data.arrays import read_arrays
from training.data.augmentation import ImageTensors, batches
from training.data.datasets import load
from training.data.sampling import order
from training.run.start import start
from training.run.state import TrainingError
from training.run.step import step

EXACT = ("batch_size=8", "queue_length=8", "queue_hardest=4", "queue_start_epoch=0")
JITTERED = ("colour_jitter=0.4", "random_convolution=0.5", "missing_band=0.5", "limited_view=0.5")
PRETRAINED = (
    "encoder.network.trunk=efficientnet_lite0",
    "pretrained=true",
    "frozen_maps=1",
)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    folder = write_pairs(tmp_path_factory.mktemp("pairs"), 8)
    return read_arrays(load("folder", folder, "all"), tiny().encoder, 0.0)


def steps(arrays, recipe, count=2, device="cpu"):
    """The state and the losses after `count` steps."""
    state = start(recipe, arrays, 0, device)
    return state, [advance(state, arrays, recipe, epoch, device) for epoch in range(count)]


def advance(state, arrays, recipe, epoch, device="cpu"):
    """Take the one step of an epoch; returns its loss."""
    state.epoch = epoch
    taken = order(recipe, arrays.positions, epoch, 0, state.seen)
    (batch,) = batches(arrays, recipe, epoch, 0, taken)
    return step(state, batch, recipe, device).wait()


def gradients(state):
    learning = [parameter for parameter in state.network.parameters() if parameter.requires_grad]
    return torch.cat([parameter.grad.flatten() for parameter in learning])


@pytest.mark.parametrize("loss", ["triplet", "info_nce"])
@pytest.mark.parametrize("chunk", [1, 3, 4])
def test_chunks_give_the_loss_and_gradient_of_the_whole_batch(arrays, loss, chunk):
    recipe = tiny(*EXACT, f"loss={loss}")
    whole, expected = steps(arrays, recipe, 1)
    chunked, losses = steps(arrays, tiny(*EXACT, f"loss={loss}", f"chunk_size={chunk}"), 1)
    assert losses == pytest.approx(expected, rel=1e-6)
    limit = 1e-5 * gradients(whole).abs().max()
    assert (gradients(chunked) - gradients(whole)).abs().max() < limit
    assert chunked.queue.negatives() == pytest.approx(whole.queue.negatives(), abs=1e-6)


def test_chunks_agree_where_a_part_is_frozen(arrays):
    whole, expected = steps(arrays, tiny(*EXACT, *PRETRAINED), 1)
    chunked, losses = steps(arrays, tiny(*EXACT, *PRETRAINED, "chunk_size=3"), 1)
    assert losses == pytest.approx(expected, rel=1e-6)
    limit = 1e-5 * gradients(whole).abs().max()
    assert (gradients(chunked) - gradients(whole)).abs().max() < limit


@pytest.mark.parametrize("loss", ["triplet", "info_nce"])
def test_the_queue_makes_either_loss_harder(arrays, loss):
    """From the second step on; before, the queue is empty."""
    plain = steps(arrays, tiny(*EXACT, f"loss={loss}", "queue_length=0"))[1]
    mined = steps(arrays, tiny(*EXACT, f"loss={loss}"))[1]
    assert mined[0] == plain[0]
    assert mined[1] > plain[1]


def test_chunks_agree_where_the_trunk_drops_layers_at_random(arrays):
    """ConvNeXt's stochastic depth: the second pass must drop what the first one dropped."""
    small = ("encoder.network.trunk=convnext_tiny", "batch_size=4", "chunk_size=2")
    recipe = tiny(*small)
    first, second = (steps(arrays_of(arrays, 4), recipe, 1) for _ in range(2))
    assert first[1] == second[1]
    assert torch.equal(gradients(first[0]), gradients(second[0]))


def arrays_of(arrays, count):
    rows = (arrays.strips, arrays.norths, arrays.chips, arrays.positions)
    return type(arrays)(*(array[:count] for array in rows), arrays.margin)


def test_the_loss_is_of_the_descriptors_alone(arrays):
    """Hard sampling keeps the descriptors that the loss saw: unit rows of every pair."""
    state, _ = steps(arrays, tiny(*EXACT, "sampling=hard"))
    assert state.seen.norm(dim=2).numpy() == pytest.approx(np.ones((2, 8)), abs=1e-5)


def test_streets_of_one_tile_are_each_seen(arrays):
    shared = replace(arrays, tiles=np.arange(8) // 2 * 2)
    state, _ = steps(shared, tiny(*EXACT, "sampling=hard"))
    assert state.seen.norm(dim=2).numpy() == pytest.approx(np.ones((2, 8)), abs=1e-5)
    assert set(state.queue.state_dict()["tile_ids"].tolist()) <= {0, 2, 4, 6}


def test_half_precision_stays_near_full(arrays):
    full, expected = steps(arrays, tiny(*EXACT), 1)
    half, loss = steps(arrays, tiny(*EXACT, "precision=bf16"), 1)
    assert loss == pytest.approx(expected, rel=0.01)
    # 0.956 to 0.992 over six draws of the augmentation, with untrained descriptors.
    assert torch.cosine_similarity(gradients(half), gradients(full), dim=0) > 0.9
    assert all(parameter.dtype == torch.float32 for parameter in half.network.parameters())


def test_a_gradient_beyond_fp16_moves_nothing_and_lowers_the_scale(arrays):
    recipe = tiny(*EXACT, "precision=fp16", "alpha=40")
    state = start(recipe, arrays, 0, "cpu")
    before = {name: tensor.clone() for name, tensor in state.network.state_dict().items()}
    advance(state, arrays, recipe, 0)
    assert not gradients(state).isfinite().all()
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in state.network.state_dict().items()
    )
    assert state.scaler.get_scale() < 65536.0
    state.scaler.update(new_scale=1.0)  # as several more steps of this kind would
    advance(state, arrays, recipe, 1)
    moved = state.network.state_dict()["street.head.weight"]
    assert moved.isfinite().all()
    assert not torch.equal(moved, before["street.head.weight"])


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_moves_nothing(arrays, broken):
    recipe = tiny(*EXACT)
    state = start(recipe, arrays, 0, "cpu")
    before = {name: tensor.clone() for name, tensor in state.network.state_dict().items()}
    state.network.street.head.bias.register_hook(lambda gradient: gradient * broken)
    (batch,) = batches(arrays, recipe, 0, 0, order(recipe, arrays.positions, 0, 0))
    with pytest.raises(TrainingError, match=r"gradient's length is (nan|inf) in epoch 0, step 0"):
        step(state, batch, recipe, "cpu")
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in state.network.state_dict().items()
    )


def test_more_workers_change_nothing(arrays):
    recipe = tiny("batch_size=2")
    taken = order(recipe, arrays.positions, 0, 0)
    for batch, same_batch in zip(
        batches(arrays, recipe, 0, 0, taken),
        batches(arrays, recipe, 0, 0, taken, workers=3),
        strict=True,
    ):
        assert all(torch.equal(*pair) for pair in zip(batch, same_batch, strict=True))


def test_a_single_process_has_the_whole_batch():
    rows = torch.arange(6.0)
    assert torch.equal(distributed.gather(rows), rows)
    assert (distributed.process_count(), distributed.own_rows(6)) == (1, slice(0, 6))
    assert distributed.is_first()


@pytest.mark.gpu
@pytest.mark.parametrize(
    "overrides",
    [(), ("chunk_size=4",), PRETRAINED],
    ids=["recorded", "in chunks", "partly frozen"],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gpu_learns_like_the_cpu(arrays, precision, overrides, cuda):
    """A GPU replays a recording of whole batches: the second step must see moved weights."""
    trunk = overrides if overrides is PRETRAINED else ()
    plain = (*EXACT, "loss=info_nce", "learning_rate=1e-3", *trunk)
    here, expected = steps(arrays, tiny(*plain), 3)
    recipe = tiny(*plain, *overrides, f"precision={precision}")
    there, losses = steps(arrays, recipe, 3, cuda)
    # A GPU's convolutions round differently, and the difference grows with every step.
    assert losses[0] == pytest.approx(expected[0], rel=0.01)
    assert losses == pytest.approx(expected, rel=0.15)
    moved = [
        (torch.cat([parameter.flatten().cpu() for parameter in state.network.parameters()]))
        for state in (here, there, start(recipe, arrays, 0, "cpu"))
    ]
    assert torch.cosine_similarity(moved[0] - moved[2], moved[1] - moved[2], dim=0) > 0.5


@pytest.mark.gpu
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_gpu_reports_a_broken_gradient_later_and_moves_nothing(arrays, broken, cuda):
    recipe = tiny("batch_size=8")
    state = start(recipe, arrays, 0, cuda)
    before = {name: tensor.clone() for name, tensor in state.network.state_dict().items()}
    hook = state.network.street.head.bias.register_hook(lambda gradient: gradient * broken)
    (batch,) = batches(arrays, recipe, 0, 0, order(recipe, arrays.positions, 0, 0))
    pending = step(state, batch, recipe, cuda)
    with pytest.raises(TrainingError, match=r"gradient's length is (nan|inf) in epoch 0, step 0"):
        pending.wait()
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in state.network.state_dict().items()
    )
    hook.remove()
    assert math.isfinite(step(state, batch, recipe, cuda).wait())
    moved = state.network.state_dict()
    assert not torch.equal(moved["street.head.weight"], before["street.head.weight"])


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_a_step_does_not_wait_for_the_gpu(arrays, cuda):
    """The CPU waits only when a step's loss is asked for."""
    recipe = tiny(*EXACT, "loss=info_nce", "ema=0.9", *JITTERED)
    state = start(recipe, arrays, 0, cuda)
    images = ImageTensors.of(arrays, cuda)
    taken = order(recipe, arrays.positions, 0, 0)

    def once():
        (batch,) = batches(arrays, recipe, 9, 0, taken, images=images)
        return step(state, batch, recipe, cuda)

    once().wait()
    torch.cuda.set_sync_debug_mode("error")
    try:
        pending = once()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert math.isfinite(pending.wait())

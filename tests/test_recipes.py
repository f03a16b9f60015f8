import json
from dataclasses import replace

import pytest
from pydantic import ValidationError

from model.panorama import Band
from training.recipes import RECIPES, RecipeError, find


def test_every_number_of_the_paper_stands_in_msae_vgg16():
    paper = find("msae-vgg16")
    assert (paper.alpha, paper.loss) == (10.0, "triplet")
    assert (paper.batch_size, paper.epochs) == (64, 100)
    assert (paper.learning_rate, paper.betas, paper.weight_decay) == (1e-4, (0.9, 0.999), 0.0)
    assert (paper.schedule, paper.step_epochs, paper.warmup_steps) == ("step", 80, 0)
    assert paper.encoder.preprocessing.input_size == 288
    assert (paper.encoder.network.trunk, paper.pretrained) == ("vgg16", True)
    assert paper.encoder.network.attention
    assert paper.encoder.preprocessing.projection == "polar"
    assert paper.encoder.preprocessing.band is None
    assert paper.rotation == "street"
    extras = (paper.mirror, paper.offset_m, paper.missing_band, paper.colour_jitter)
    assert not any(extras)
    assert paper.queue_length > 0 < paper.queue_start_epoch


def test_the_demo_is_the_same_method_on_a_small_trunk():
    demo, paper = find("msae-demo"), find("msae-vgg16")
    assert (demo.encoder.network.trunk, demo.encoder.preprocessing.input_size) == ("small", 128)
    assert demo.encoder.network.attention
    assert demo.encoder.preprocessing.projection == "polar"
    assert demo.encoder.preprocessing.band == Band(15, -45)
    assert (demo.alpha, demo.loss) == (paper.alpha, paper.loss)
    assert demo.queue_length > 0


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("epochs=3", 3),
        ("learning_rate=2e-5", 2e-5),
        ("betas=0.8,0.99", (0.8, 0.99)),
        ("mirror=False", False),
        ("rotation=none", "none"),
        ("name=mine", "mine"),
        ("encoder.aerial_footprint_m=70", 70.0),
        ("encoder.network.trunk=resnet18", "resnet18"),
        ("encoder.preprocessing.strip_size=10,20", (10, 20)),
        ("encoder.preprocessing.projection=ground", "ground"),
        ("encoder.preprocessing.band=none", None),
        ("encoder.preprocessing.band=20,-50", Band(20.0, -50.0)),
    ],
)
def test_an_override_sets_its_field_and_nothing_else(override, value):
    path = override.partition("=")[0].split(".")

    def at(recipe):
        for name in path:
            recipe = getattr(recipe, name)
        return recipe

    changed = find("msae-demo", [override])
    assert at(changed) == value
    assert type(at(changed)) is type(value)
    back = json.loads(json.dumps(changed.as_dict()))
    original = json.loads(json.dumps(find("msae-demo").as_dict()))
    *parents, last = path
    for fields in (back, original):
        for name in parents:
            fields = fields[name]
        del fields[last]
    assert back == original


def test_the_last_override_wins():
    assert find("msae-demo", ["epochs=3", "epochs=4"]).epochs == 4


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("epoch=3", "no field 'epoch'; fields: .*epochs"),
        ("encoder.network.depth=3", "no field 'depth'; fields: .*trunk"),
        ("epochs", "'epochs': it is not of the form field=value"),
        ("epochs=many", "epochs=many': epochs is many: it must be a valid integer"),
        ("epochs=1.5", "epochs is 1.5: it must be a valid integer"),
        ("epochs.first=1", "'epochs' has no fields"),
        ("mirror=perhaps", "mirror is perhaps: it must be a valid boolean"),
        ("rotation=left", "rotation is left: it must be 'street', 'joint' or 'none'"),
        ("betas=0.9", "betas=0.9': '0.9' is not 2 values separated by commas"),
        ("encoder.preprocessing.projection=fisheye", "is fisheye: it must be 'polar', 'ground' or"),
        ("encoder.preprocessing.band=15", "band=15': '15' is not 2 values separated by commas"),
        ("encoder=small", "set the fields of encoder one by one: .*network, preprocessing"),
        ("batch_size=1", "batch_size is 1: it must be greater than or equal to 2"),
        ("epochs=0", "epochs is 0"),
        ("learning_rate=nan", "learning_rate is nan: it must be a finite number"),
        ("learning_rate=inf", "learning_rate is inf: it must be a finite number"),
        ("learning_rate=0", "learning_rate is 0: it must be greater than 0"),
        ("temperature=0", "temperature is 0: it must be greater than 0"),
        ("alpha=-1", "alpha is -1: it must be greater than 0"),
        ("ema=1", "ema is 1: it must be less than 1"),
        ("ema=-0.1", "ema is -0.1: it must be greater than or equal to 0"),
        ("betas=0.9,1", "betas is 1: it must be less than 1"),
        ("label_smoothing=1", "label_smoothing is 1: it must be less than 1"),
        ("missing_band=2", "missing_band is 2: it must be less than or equal to 1"),
        ("queue_length=-1", "queue_length is -1: it must be greater than or equal to 0"),
        ("offset_m=nan", "offset_m is nan: it must be a finite number"),
        ("encoder.aerial_footprint_m=0", "encoder.aerial_footprint_m is 0.0: it must be above 0"),
        ("encoder.turns=3", r"turns is 3: it must be one of \(1, 2, 4\)"),
        ("encoder.network.trunk=foo", "trunk is foo: .* one of small, efficientnet_lite0, vgg16"),
        ("encoder.network.dimension=0", "encoder.network.dimension is 0: .* at least 1"),
        ("encoder.preprocessing.input_size=8", "input_size is 8: it must be at least 32"),
        ("encoder.preprocessing.strip_size=0,9", "strip_size is 0: it must be at least 1"),
        ("encoder.preprocessing.mean=1,2,1", "encoder.preprocessing.mean is 2.0: .* from 0 to 1"),
        ("encoder.preprocessing.std=1,0,1", "encoder.preprocessing.std is 0.0: .* above 0"),
        ("encoder.preprocessing.band=-45,15", r"band is Band\(.*\): .* top above its bottom"),
        ("encoder.preprocessing.band=nan,15", "band is nan: it must be a finite number"),
    ],
)
def test_an_impossible_override_is_refused_by_name(override, names):
    with pytest.raises(RecipeError, match=names):
        find("msae-demo", [override])


@pytest.mark.parametrize("field", ["epochs", "alpha"])
def test_code_cannot_make_an_impossible_recipe(field):
    with pytest.raises(ValidationError, match=field):
        replace(find("msae-demo"), **{field: 0})


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_trunk_with_batch_norm_refuses_chunks(name):
    trunk = f"encoder.network.trunk={name}"
    find("msae-demo", [trunk])
    with pytest.raises(RecipeError, match=f"chunk_size is 4: {name} has batch norm"):
        find("msae-demo", [trunk, "chunk_size=4"])


@pytest.mark.parametrize(
    ("name", "less"),
    [
        ("msae-demo-without-ipt", "encoder.preprocessing.projection=none"),
        ("msae-demo-without-msae", "encoder.network.attention=false"),
        ("msae-demo-without-gms", "queue_length=0"),
    ],
)
def test_each_row_of_the_ablation_is_a_recipe(name, less):
    overrides = ("name=" + name, less)
    assert find(name) == find("msae-demo", overrides) != find("msae-demo", overrides[:1])


def test_an_unknown_recipe_lists_the_known_ones():
    with pytest.raises(RecipeError, match="'paper' is unknown; known: msae-vgg16, msae-demo"):
        find("paper")


def test_recipes_state_their_own_name():
    assert all(find(name).name == name for name in RECIPES)
    assert replace(find("msae-demo")) == find("msae-demo")

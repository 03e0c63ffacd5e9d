"""The recipe: typed, closed to typos, checked across keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infimed.core.errors import EXIT_RECIPE, RecipeError
from infimed.core.recipe import dump_recipe, load_recipe, recipe_names

SMALL = """
name: small
data: {root: here}
stages:
  - {name: low, image_size: 48, visual_tokens: 36, row_tokens: 256, learning_rate: {projector: 0.001}}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_that_ships_is_valid(name):
    overrides = [] if load_needs_no_root(name) else ["data.root=x"]
    assert load_recipe(name, overrides).name == name


def load_needs_no_root(name):
    return name == "nano"


def test_resolved_recipe_loads_equal(file, tmp_path):
    recipe = load_recipe(str(file), ["train.seed=3"])
    again = tmp_path / "again.yaml"
    again.write_text(dump_recipe(recipe))
    assert load_recipe(str(again)) == recipe


def test_override_reaches_a_list_item_by_name(file):
    assert load_recipe(str(file), ["stages.low.epochs=2.5"]).stages[0].epochs == 2.5


def test_root_on_the_command_line_replaces_generated_data():
    recipe = load_recipe("nano", ["data.root=x"])
    assert recipe.data.phantom is None


@pytest.mark.parametrize(
    ("override", "where", "message"),
    [
        ("train.sead=3", "train.sead", "did you mean: seed"),
        ("trian.seed=3", "trian", "did you mean: train"),
        ("stages.low.visual_tokns=3", "stages.0.visual_tokns", "did you mean: visual_tokens"),
        ("stages.lo.epochs=3", "stages.lo", "did you mean: low"),
        ("train.seed=many", "train.seed", "valid integer"),
        ("train.seed=-1", "train.seed", "greater than or equal"),
        ("stages.low.row_tokens=40", "stages.0", "cannot hold one image of 36"),
        ("stages.low.learning_rate={}", "stages.0.learning_rate", "every module is frozen"),
        ("data.root=", "data", "data.root=FOLDER"),
        ("train.seed", "override", "key=value"),
        ("train.seed.deep=1", "train.seed", "valid integer"),
        ("name=../evil", "name", "pattern"),
    ],
)
def test_wrong_override_is_named_with_what_to_do(file, override, where, message):
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(file), [override])
    assert caught.value.exit_code == EXIT_RECIPE
    assert where in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (("sft-a", 36, 48), ("pretrain-low", 36, 48)),
        (("pretrain-high", 144, 96), ("pretrain-low", 36, 48)),
        (("same", 36, 48), ("same", 36, 48)),
    ],
)
def test_stages_in_the_wrong_order_are_refused(tmp_path, stages, message):
    lines = "".join(
        f"  - {{name: {n}, image_size: {s}, visual_tokens: {v}, row_tokens: 512, learning_rate: {{language: 0.1}}}}\n"
        for n, v, s in (stages, message)
    )
    path = tmp_path / "r.yaml"
    path.write_text("name: r\ndata: {root: x}\nstages:\n" + lines)
    with pytest.raises(RecipeError):
        load_recipe(str(path))


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "name: !!python/object:os.system x", ""])
def test_file_that_is_no_recipe_is_refused(tmp_path, text):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError):
        load_recipe(str(path))


def test_unknown_recipe_suggests_the_nearest():
    with pytest.raises(RecipeError, match="did you mean: nano"):
        load_recipe("nanno")


@given(st.integers(0, 2**31))
def test_any_seed_survives_the_round_trip_of_an_override(seed):
    assert load_recipe("nano", [f"train.seed={seed}"]).train.seed == seed


@pytest.mark.parametrize("split", ["test", "calibration"])
def test_training_on_a_split_that_judges_the_model_is_refused(split):
    with pytest.raises(RecipeError):
        load_recipe("nano", [f"data.train_splits=[train, {split}]"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stages.low.rows_per_step=2", "stages.low.samples_per_step=8"], "give one of"),
        (["stages.low.samples_per_step=8", "stages.low.targets_per_step=8"], "give one of"),
        (["stages.low.mixture_unit=tokens"], "needs a mixture"),
        (["stages.low.decay_mixture={closed: 1}"], "warmup-stable-decay"),
        (["stages.low.mixture={closed: -1}"], "below 0"),
        (["stages.low.over_long=shrink", "train.feature_cache=true"], "shrink needs smaller"),
        (["stages.low.tiles=14"], "cannot hold 15 views of an image, each of 36"),
        (["stages.low.tiles=4", "stages.low.max_images=4"], "give at least 5"),
        (["stages.low.tiles=1"], "at least 2"),
    ],
)
def test_keys_that_contradict_one_another_are_refused(file, overrides, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(str(file), overrides)

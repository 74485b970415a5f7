"""Models on disk: ours, and any spec that says what ours say."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax._typing import Model
from ctrl_jax.models import DiffusionSpec, ImageDiffusionSpec, SteeringSpec, score_model
from ctrl_jax.networks import NCSNppConfig
from ctrl_jax.processes import OU, VP, parameterization
from ctrl_jax.runtime import RunWarning, load, load_model, save_model, state_digest
from ctrl_jax.runtime.saved_models import _read_record

# Orbax leaves coroutines behind when it fails to read a damaged array.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
SHAPE = (8, 8, 3)
NETWORK = NCSNppConfig(width=4, multipliers=(1,), blocks=1, attention=(), dropout=0.5)


def random_params(model):
    generator = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(
        lambda leaf: jnp.asarray(generator.normal(size=leaf.shape), leaf.dtype), shapes
    )


def test_a_saved_network_of_images_is_loaded(tmp_path):
    spec = ImageDiffusionSpec("contractive_sub_vp", (1.0, 4.0), None, NETWORK)
    model = spec.model(SHAPE)
    params = random_params(model)
    save_model(tmp_path, spec, SHAPE, params, {"solver_steps": 7})
    found = load_model(tmp_path)
    assert found.spec == spec and found.shape == SHAPE and found.notes == {"solver_steps": 7}
    process, score_fn = load(tmp_path)
    assert float(process.prior_std()) == float(spec.process().prior_std())
    t, x = jnp.asarray([0.2, 0.9]), jnp.ones((2, *SHAPE))
    score = jax.jit(score_fn)(t, x)
    # Evaluation has no dropout: the same twice, and the model's own.
    np.testing.assert_array_equal(score, jax.jit(score_fn)(t, x))
    np.testing.assert_allclose(score, jax.jit(model.apply)(params, t, x), rtol=1e-5, atol=1e-5)


def test_the_precision_of_a_model_is_kept(tmp_path):
    """A network in bfloat16 is loaded as one; one in float64 is not read as something else."""
    spec = DiffusionSpec(width=8, depth=1)
    params = random_params(spec.model((2,)))
    save_model(tmp_path / "half", spec, (2,), params, precision="bfloat16")
    t, x = jnp.asarray([0.2, 0.9]), jnp.ones((2, 2))
    model = load_model(tmp_path / "half")
    networks = (spec.model((2,)), spec.model((2,), jnp.dtype("bfloat16")))

    @jax.jit
    def scores(params):
        return model.score_fn(t, x), *(network.apply(params, t, x) for network in networks)

    half, full, expected = scores(params)
    np.testing.assert_array_equal(half, expected)
    assert half.dtype == full.dtype and not np.array_equal(half, full)
    save_model(tmp_path / "double", spec, (2,), params, precision="float64")
    with pytest.raises(ValueError, match="JAX_ENABLE_X64=1"):
        load_model(tmp_path / "double")


def test_a_steering_policy_is_loaded_with_its_environment(tmp_path):
    spec = SteeringSpec((-1.5, 1.0), (0.1, 0.2), (0.3, 0.7), 1.5, -0.5, 0.8, width=8, depth=1)
    params = random_params(spec.model())
    save_model(tmp_path, spec, (1,), params)
    assert load_model(tmp_path).spec == spec
    process, score_fn = load(tmp_path)
    assert process.horizon == 3.0
    t, x = jnp.asarray([0.5, 2.0]), jnp.asarray([[0.3], [-1.0]])

    @jax.jit
    def scores(key, t, x):
        applied = [spec.model().apply(p, t, x) for p in (params, spec.model().init(key))]
        return score_fn(t, x), *applied, spec.environment().score(t, x)

    loaded, trained, untrained, exact = scores(jax.random.key(0), t, x)
    np.testing.assert_array_equal(loaded, trained)
    np.testing.assert_allclose(untrained, exact, rtol=1e-6)


def test_a_model_of_another_format_is_told(tmp_path):
    spec = DiffusionSpec(width=8, depth=1)
    save_model(tmp_path, spec, (2,), random_params(spec.model((2,))))
    record = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**record, "format": 1}))
    with pytest.raises(ValueError, match=r"format: received 1; this version reads format 3"):
        load_model(tmp_path)


def test_one_bit_of_a_description_is_noticed(tmp_path):
    """Any bit of it, every seventh here, is a refusal of one line, and no other mathematics."""
    spec = DiffusionSpec(width=8, depth=1)
    save_model(tmp_path, spec, (2,), random_params(spec.model((2,))), {"solver_steps": 7})
    path = tmp_path / "model.json"
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 7):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            assert _read_record(tmp_path)[1] == json.loads(whole)  # a blank became another
        except ValueError as error:
            assert "received" in str(error)


def test_damaged_parameters_are_written_again(tmp_path):
    spec = DiffusionSpec(width=8, depth=1)
    params = random_params(spec.model((2,)))
    save_model(tmp_path, spec, (2,), params)
    save_model(tmp_path, spec, (2,), params)  # what is whole stays, without a word
    files = [p for p in tmp_path.glob("params-*/1/state/**/*") if p.parent.name == "d"]
    for path in files:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="no checkpoint that can be"), pytest.warns(RunWarning):
        load_model(tmp_path)
    with pytest.warns(RunWarning, match="what was damaged on disk is written again"):
        save_model(tmp_path, spec, (2,), params)
    assert state_digest(load_model(tmp_path).params) == state_digest(params)
    assert [p.name for p in tmp_path.glob("params-*/1.corrupt")] == ["1.corrupt"]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A part of a spec."""

    widths: tuple[int, ...] = (3, 5)


@dataclasses.dataclass(frozen=True)
class OwnSpec:
    """What a user may write: a linear network of the data on a process of their own choice."""

    sizes: Sizes
    sigma: float = 1.5
    end: float = 0.1

    conditions = 1
    prediction = staticmethod(parameterization.from_data)

    def process(self):
        return OU(0.5, self.sigma, horizon=2.0)

    def make_network(self, shape, dtype=None):
        def init(key):
            return {"gain": jax.random.normal(key, self.sizes.widths), "shift": jnp.zeros(shape)}

        def apply(params, t, x, label):
            return x * params["gain"].mean() + params["shift"][None] + label[:, None]

        return Model(init, apply)


def test_a_spec_of_ones_own_is_saved_and_loaded(tmp_path):
    spec = OwnSpec(Sizes((2, 4)), sigma=0.7)
    model = score_model(spec, (3,))
    params = random_params(model)
    save_model(tmp_path, spec, (3,), params)
    found = load_model(tmp_path, kinds=(OwnSpec,))
    assert found.spec == spec and found.spec.end == 0.1
    t, x, label = jnp.asarray([0.2, 0.9]), jnp.ones((2, 3)), jnp.asarray([1.0, 2.0])
    process = spec.process()
    predicted = x * params["gain"].mean() + params["shift"][None] + label[:, None]
    expected = parameterization.from_data(process, lambda t, x: predicted)(t, x)
    np.testing.assert_allclose(found.score_fn(t, x, label), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="conditions: received 0; a score of OwnSpec takes 1"):
        found.score_fn(t, x)
    with pytest.raises(ValueError, match="kind: received 'OwnSpec'; it must be one of Diffusion"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("spec", "rule"),
    [
        (VP(), "it must be a dataclass with the members of ModelSpec"),
        (OwnSpec(Sizes(), sigma=float("inf")), "it must be the same after it went through JSON"),
        (OwnSpec(Sizes([3, 5])), "it must be the same after it went through JSON"),  # pyright: ignore
    ],
)
def test_what_could_not_be_read_is_not_written(tmp_path, spec, rule, unchecked):
    with pytest.raises(ValueError, match=f"spec: received .*; {rule}"):
        save_model(tmp_path, spec, (3,), {"gain": jnp.ones((3, 5)), "shift": jnp.zeros(3)})
    assert not list(tmp_path.iterdir())


def test_parameters_of_another_network_are_not_written(tmp_path):
    params = {"gain": jnp.ones((3, 5)), "shift": jnp.zeros(3)}
    with pytest.raises(ValueError, match=r"params: .*\['shift'\]: saved \[3\], expected \[4\]"):
        save_model(tmp_path, OwnSpec(Sizes()), (4,), params)
    assert not list(tmp_path.iterdir())

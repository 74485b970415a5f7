"""The peers of `benchmarks.continuous_rl` make our arithmetic on our problem."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import continuous_rl, harness

SETTINGS = continuous_rl.Settings(batch=4, **continuous_rl.QUICK)


def test_a_quick_run_writes_steps_per_second_and_updates(tmp_path, capsys):
    """Without peers: an update, and a whole run to the (loose) goal."""
    update, *_, whole = continuous_rl.cases(quick=True)
    alone = [harness.Case(case.name, case.contenders[:1]) for case in (update, whole)]
    out = harness.run("continuous_rl", continuous_rl.CLAIM, alone, quick=True, out=tmp_path)
    first, second = (case["rows"][0] for case in out["cases"])
    assert first["environment_steps"] == 4 * 5
    assert second["updates"] >= 1 and second["environment_time"] == 4.0 * second["updates"]
    text = capsys.readouterr().out
    assert "M environment steps/s" in text and "updates, environment time" in text


def test_a_run_that_misses_its_goal_is_an_error():
    counted = continuous_rl.Counted(SETTINGS)
    with pytest.raises(RuntimeError, match="not reached in 7 updates"):
        counted.finish(7, float("nan"))


def test_the_goal_is_measured_from_the_first_policy():
    np.testing.assert_allclose(continuous_rl.suboptimality(*continuous_rl.FIRST), 1.0, rtol=1e-6)
    best = continuous_rl.environment().optimal_linear_policy()
    np.testing.assert_allclose(continuous_rl.suboptimality(*best), 0.0, atol=1e-6)


def test_the_port_computes_our_updates():
    """Three updates on the same draws: losses, objective and both learners."""
    torch = pytest.importorskip("torch")
    from benchmarks.peers import torch_control

    made = continuous_rl.make("cppo", SETTINGS)
    problem, first = continuous_rl.COEFFICIENTS, continuous_rl.FIRST
    port = torch_control.Learner(problem, continuous_rl.START, first, SETTINGS, seed=0)
    state, step = made.init(jax.random.key(0)), jax.jit(made.step)
    for i in range(3):
        x_0 = continuous_rl.start_states(jax.random.key(i + 1), SETTINGS.batch)
        given = {k: torch.from_numpy(np.array(v)) for k, v in draws_of(state, x_0).items()}
        state, ours = step(state, x_0)
        for name, number in port.update(given).items():
            np.testing.assert_allclose(number, ours[name], rtol=1e-3, atol=1e-5, err_msg=name)
    assert state.value is not None
    mine, critic = state.policy.params, state.value.params
    found = [float(leaf.detach()) for leaf in (*port.actor, *port.critic)]
    expected = [float(np.squeeze(leaf)) for leaf in (*mine, *critic)]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def draws_of(state, x_0):
    """The randomness of our next step."""
    _, rollout_key, time_key = jax.random.split(state.key, 3)
    keys = [jax.random.split(jax.random.fold_in(rollout_key, i)) for i in range(SETTINGS.steps)]
    actions, noise = (
        jnp.stack([jax.random.normal(pair[j], x_0.shape)[:, 0] for pair in keys]) for j in (0, 1)
    )
    uniform = jax.random.uniform(time_key, (SETTINGS.draws, SETTINGS.batch))
    return {"x_0": x_0[:, 0], "actions": actions, "noise": noise, "uniform": uniform}


def test_the_gymnasium_environment_is_our_problem():
    """Its steps with its own noise, against the drift, diffusion and reward of ours."""
    pytest.importorskip("stable_baselines3")
    from benchmarks.peers.sb3_ppo import LinearQuadraticEnv

    world = continuous_rl.environment()
    specification = {"problem": continuous_rl.COEFFICIENTS, "steps": 3}
    specification |= {"start": continuous_rl.START, "settings": {"dt": 0.1}}
    env = LinearQuadraticEnv(specification)
    (x,), _ = env.reset(seed=3)
    z = np.random.default_rng(3).standard_normal(4)[1:]
    for i, a in enumerate((0.3, -1.0, 0.7)):
        state, action = jnp.full((1, 1), x), jnp.full((1, 1), a)
        (x,), reward, ended, cut, _ = env.step(np.array([a], np.float32))
        noise = world.diffusion(state, action)[0, 0, 0] * 0.1**0.5 * z[i]
        expected = state + world.drift(state, action) * 0.1 + noise
        np.testing.assert_allclose(x, expected[0, 0], rtol=1e-5)
        np.testing.assert_allclose(reward, 0.1 * world.reward(state, action)[0], rtol=1e-5)
        assert not ended and cut == (i == 2)


@pytest.mark.slow
def test_stable_baselines3_answers():
    pytest.importorskip("stable_baselines3")
    ask, close = continuous_rl._start_sb3(SETTINGS)
    try:
        first = np.asarray(continuous_rl.FIRST)
        np.testing.assert_allclose(np.asarray(ask("reset 0")), first, rtol=1e-6)
        assert not np.allclose(np.asarray(ask("update")), first, rtol=1e-4)
    finally:
        close()

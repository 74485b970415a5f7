"""Fine-tuning by annotators who divide: their law, the table of betas, and the command."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax._typing import Model
from ctrl_jax.algorithms import Batch
from ctrl_jax.losses import preference
from ctrl_jax.processes import VP
from ctrl_jax.runtime import command
from experiments.diffusion_preference import exact
from experiments.diffusion_preference.__main__ import main
from experiments.diffusion_preference.annotators import (
    LAWS,
    agreement,
    draw_opinions,
    estimate_dispersion,
    make_annotator,
    preferred,
)
from experiments.diffusion_preference.claims import against
from experiments.diffusion_preference.config import METHODS, Config
from experiments.diffusion_preference.methods import LIKE_DPO, beta_of, log_snr_times
from experiments.diffusion_preference.steering import POWERS, steered
from experiments.directed_tasks import END, forward_process
from experiments.verdicts import verdict

TINY = """
--no-progress --steps 2 --seeds 2 --temperatures 0.5 1.0 --samples 8 --base-samples 40
--snapshots 1 --solver-steps 5 --exact-updates 2 --training.pairs 20 --training.estimation 0.5
--training.offline-updates 2 --training.pretraining-steps 2 --training.reward-updates 2
--training.width 8
""".split()  # noqa: SIM905


@pytest.mark.parametrize("phi", [0.2, 0.9])
def test_the_annotators_are_those_of_the_ranking_law(phi):
    """P(mu) ~ phi^(Kendall distance) over all 120 rankings of five images, summed by hand."""
    weights, ahead = [], np.zeros((5, 5))
    for ranking in itertools.permutations(range(5)):
        inversions = sum(a > b for a, b in itertools.combinations(ranking, 2))
        weights.append(phi**inversions)
        place = np.argsort(ranking)
        ahead += weights[-1] * (place[:, None] < place[None])
    ahead /= sum(weights)
    for i, j in itertools.combinations(range(5), 2):
        found = preferred("kendall", jnp.asarray(float(j - i)), jnp.asarray(phi))
        np.testing.assert_allclose(found, ahead[i, j], rtol=1e-5)


@pytest.mark.parametrize("law", LAWS)
def test_fresh_annotators_choose_with_that_probability(law):
    """40 000 choices in each of two classes, five standard deviations: false alarm 1e-6."""
    number, phi = 40_000, np.asarray([0.3, 0.9], np.float32)
    labels = jnp.arange(2 * number) % 2
    annotator = make_annotator(law, 2.0, jnp.asarray(phi))
    rewards = jnp.full(2 * number, 0.35)
    batch = Batch(jnp.ones(2 * number), prompts=labels)
    wins = np.asarray(annotator(jax.random.key(0), rewards, jnp.zeros_like(rewards), batch))
    for c in range(2):
        expected = {  # two ranks per unit: 0.7 ranks apart
            "kendall": 1.7 / (1 - phi[c] ** 1.7) - 0.7 / (1 - phi[c] ** 0.7),
            "spearman": 1 / (1 + phi[c] ** 1.4),
        }[law]
        deviation = np.sqrt(expected * (1 - expected) / number)
        assert abs(wins[c::2].mean() - expected) < 5 * deviation


@pytest.mark.parametrize("law", LAWS)
def test_the_dispersion_is_found_again_from_repeated_questions(law):
    """Exactly from the exact share; a share above or below all others gives the nearest."""
    phi = np.asarray([0.05, 0.2, 0.5, 0.9])
    np.testing.assert_allclose(
        estimate_dispersion(law, 2.0, agreement(law, 2.0, phi)), phi, atol=2e-3
    )
    assert (np.diff(agreement(law, 2.0, phi)) < 0).all()
    np.testing.assert_allclose(
        estimate_dispersion(law, 2.0, np.asarray([0.3, 1.0])), [1, 1e-3], atol=2e-3
    )


def test_every_seed_has_its_own_half():
    opinions = draw_opinions("kendall", 2.0, 0.2, 0.9, [0, 1, 2], 10)
    assert (opinions.agreed.sum(axis=1) == 5).all()
    assert not np.array_equal(opinions.agreed[0], opinions.agreed[1])
    np.testing.assert_allclose(opinions.dispersion, np.where(opinions.agreed, 0.2, 0.9))


def expected_slope(method, law, margin, gap, phi, temperature):
    """d/dm of the expected loss at m, over the annotators of a pair `gap` rewards apart."""
    ranks, agreed = 2.0, 0.2
    beta = beta_of(method, law, ranks, agreed, temperature)
    told = LIKE_DPO if method == "dpo" else phi
    loss = preference.mallows_phi if method == "phi" else preference.mallows_theta
    share = preferred(law, jnp.asarray(ranks * gap), jnp.asarray(phi))

    def expected(m):
        zero = jnp.zeros(())
        both = (loss(a, b, beta=beta, dispersion=told) for a, b in ((m, zero), (zero, m)))
        return sum(p * value for p, value in zip((share, 1 - share), both, strict=True))

    return float(jax.grad(expected)(jnp.asarray(margin)))


@pytest.mark.parametrize(
    ("method", "law", "phi"),
    [
        ("dpo", "spearman", 0.2),
        ("theta", "spearman", 0.2),
        ("theta", "spearman", 0.9),
        ("phi", "kendall", 0.2),
        ("phi", "kendall", 0.9),
    ],
)
@pytest.mark.parametrize("gap", [0.3, 1.5])
def test_beta_aims_at_the_temperature(method, law, phi, gap):
    """Where link and annotators are one, the expected loss has its minimum at m = gap / T."""
    temperature = 0.4
    slope = expected_slope(method, law, gap / temperature, gap, phi, temperature)
    beside = expected_slope(method, law, 1.2 * gap / temperature, gap, phi, temperature)
    assert abs(slope) < 0.02 * abs(beside)


def test_dpo_aims_lower_where_people_divide():
    """Spearman: at the temperature times alpha over alpha(c), as the page of methods says."""
    temperature, gap = 0.4, 1.0
    hotter = temperature * np.log(0.2) / np.log(0.9)
    slope = expected_slope("dpo", "spearman", gap / hotter, gap, 0.9, temperature)
    beside = expected_slope("dpo", "spearman", gap / temperature, gap, 0.9, temperature)
    assert abs(slope) < 1e-3 * abs(beside)


@pytest.mark.parametrize("method", ["dpo", "theta"])
def test_beta_has_the_slope_of_the_log_odds_under_kendall(method):
    """logit g_phi(s) and the loss's own logit rise alike far from a tie: at 40 to 60 ranks."""
    beta = beta_of(method, "kendall", 2.0, 0.2, 0.4)
    s = jnp.asarray([40.0, 60.0])
    log_share, log_rest = (preference.mallows_log_link(x, 0.2) for x in (s, -s))
    log_odds = np.diff(log_share - log_rest)[0]
    told = LIKE_DPO if method == "dpo" else 0.2
    own = -2 * np.log(told) * beta * (10.0 / 0.4)  # twenty ranks are ten rewards
    np.testing.assert_allclose(own, log_odds, rtol=0.02)  # alpha s - log s + ...


def test_offline_times_make_a_path():
    """(3) of `path_log_ratio` of an error that is a function of time, by quadrature."""
    sample_times, nats = log_snr_times((8, 8, 1))
    times = np.asarray(sample_times(jax.random.key(0), 20_000), float)
    assert times.min() >= END and times.max() <= forward_process().horizon

    def error(t):
        return 0.1 + t**2 * np.exp(-t)

    fine = np.geomspace(END, forward_process().horizon, 200_001)
    std = np.asarray(forward_process().marginal(jnp.asarray(fine)).std, float)
    rate = (np.asarray(forward_process().diffusion(jnp.asarray(fine)), float) / std) ** 2
    expected = -0.5 * 64 * np.trapezoid(rate * error(fine), fine)
    # Stratified over 20 000 levels, and float32.
    np.testing.assert_allclose(-0.5 * nats * error(times).mean(), expected, rtol=1e-3)


def test_the_trained_images_start_at_nothing_and_no_class_shares_one():
    base = Model(lambda key: (), lambda params, t, x, label: -x * (1.0 + label[:, None]))
    policy = steered(VP(), base, (), (4,), 3)
    x, label = jax.random.normal(jax.random.key(0), (6, 4)), jnp.arange(6) % 3
    images, t = policy.init(jax.random.key(1)), jnp.asarray(0.3)
    np.testing.assert_array_equal(policy.apply(images, t, x, label), base.apply((), t, x, label))
    slope = jax.jit(jax.jacobian(lambda b: policy.apply(b, t, x, label).sum(axis=1)))(images)
    own = np.abs(slope).reshape(6, 3, -1).sum(axis=2) > 0
    assert slope.shape == (6, 3, POWERS, 4)
    np.testing.assert_array_equal(own, np.asarray(label)[:, None] == np.arange(3))


def test_verdicts():
    noise = np.asarray([-0.01, 0.0, 0.01])
    assert [verdict(shift + noise) for shift in (1.0, 0.0, -1.0)] == ["yes", "level", "no"]
    assert verdict(noise[:1]) == "one seed"
    assert verdict(noise + np.asarray([np.nan, 0, 0])) == "not comparable"
    rewards = np.asarray([[0.0, 1.0, 2.0]] * 3)
    mine = {"reward/agreed": rewards, "kl/agreed": rewards**2 + noise[:, None]}
    twice = {"reward/agreed": rewards, "kl/agreed": 2 * rewards**2}
    claim = against({"a": mine, "b": twice}, "a", "b", "kl/agreed", 1, "less")[0]
    assert claim.holds == "yes" and claim.evidence.startswith("1.000 ± 0.006 against 2.000")
    away = {"reward/agreed": rewards + 5, "kl/agreed": rewards}
    assert against({"a": mine, "b": away}, "a", "b", "kl/agreed", 1, "")[0].holds == (
        "not comparable"
    )


def run(folder, options):
    command(Config, main, [*TINY, *options, "--out", str(folder)])
    return json.loads((folder / "results.json").read_text())["metrics"]


def check_measures(metrics, part, methods):
    for method, group in itertools.product(methods, ("agreed", "divided")):
        for name in ("reward", "kl", "majority", "annotators"):
            key = f"{name}/{part}/{method}/T=0.5/{group}"
            assert np.isfinite(metrics[key]) and np.isfinite(metrics[f"{key}/stderr"])
        assert 0 <= metrics[f"majority/{part}/{method}/T=0.5/{group}"] <= 1
        assert 0 < metrics[f"kl/{part}/{method}/T=0.5/{group}"] < 1


@pytest.mark.slow
def test_what_a_run_leaves(tmp_path):
    metrics = run(tmp_path / "a", ["--parts", "online", "--methods", "dpo", "phi_estimated"])
    check_measures(metrics, "online", ("dpo", "phi_estimated"))
    assert metrics["comparisons"] == 40
    verdicts = {"yes", "level", "no", "not comparable"}
    assert {claim["holds"] for claim in metrics["claims"]} <= verdicts
    rows = [json.loads(line) for line in (tmp_path / "a/metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * 2 * 2  # seeds, temperatures, methods
    for picture in ("online", "online_samples", "online_progress"):
        assert (tmp_path / "a" / f"{picture}.png").stat().st_size > 1000


@pytest.mark.slow
def test_what_a_run_of_everything_leaves(tmp_path, monkeypatch):
    for name, value in (("STEPS", 4), ("PAIRS", 8), ("SAMPLES", 64)):
        monkeypatch.setattr(exact, name, value)
    # Four updates: the policy of PPO rests in the first two.
    options = ["--trained", "network", "--steps", "4", "--methods", *METHODS]
    metrics = run(tmp_path / "a", options)
    check_measures(metrics, "online", METHODS)
    check_measures(metrics, "offline", ("dpo", "theta", "phi", "phi_estimated"))
    for setting in exact.SETTINGS:
        assert metrics[f"w2/tilted/exact/{setting}"] > 0
    assert (tmp_path / "a" / "offline.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--parts", "gaussian"], "parts: received 'gaussian'"),
        (["--parts", "online", "online"], "each once"),
        (["--methods", "ppo"], "methods"),
        (["--law", "borda"], "law"),
        (["--agreed", "1"], "agreed: received 1.0"),
        (["--divided", "0"], "divided: received 0.0"),
        (["--temperatures", "0.5", "-1"], "temperatures"),
        (["--seeds", "0"], "seeds: received 0"),
        (["--solver-steps", "7"], "multiple of 5"),
        (["--base-samples", "4"], "base_samples"),
        (["--parts", "offline", "--methods", "dpo", "ppo"], "beside comparisons of own paths"),
        (["--base-samples", "30"], "base_samples"),
        (["--agreed", "0.95"], "agreed"),
        (["--training.pairs", "25"], "training.pairs"),
        (["--training.rate", "nan"], "training.rate"),
        (["--training.estimation", "1.5"], "training.estimation"),
        (["--training.estimation", "0.01"], "training.estimation"),
    ],
)
def test_mistakes_are_one_clear_line(options, expected, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        command(Config, main, [*TINY, "--out", str(tmp_path / "a"), *options])
    assert stopped.value.code == 2 and expected in capsys.readouterr().err

"""Valid calls of public functions, each argument marked by its kind."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from ctrl_jax import (
    algorithms,
    data,
    environments,
    losses,
    metrics,
    models,
    networks,
    processes,
    rewards,
    runtime,
    solvers,
)
from ctrl_jax.losses import preference
from ctrl_jax.networks.policies import linear_policy, quadratic_value
from ctrl_jax.processes import consistency_function, contraction, grids
from ctrl_jax.solvers import girsanov, guidance, jacobian_trace
from tests.environments.fixtures import o1, o3
from tests.fuzz.odd_values import Choice, Count, Key, Number, Shape, Values


class Call(NamedTuple):
    name: str
    function: Callable[..., Any]
    arguments: dict[str, Any]

    @property
    def slow(self) -> bool:
        """Whether each call compiles a program of its own."""
        return self.name in SLOW


SLOW = {
    "sample_adaptive",
    "sample_consistency",
    "sample",
    "sample/grid",
    "simulate",
    "log_likelihood",
    "simulate_control",
    "BrownianPath.draw",
    "MLP",
    "ValueMLP",
    "DiT",
    "UNet",
    "train",
    "read_preferences",
    "load_folder",
    "load_tokenizer",
    "load_model",
    "load",
    "read_json",
    "load_callable",
}
PAIR = np.array([0.2, -0.4], np.float32)
POINTS = np.array([[0.3, -0.1], [0.2, 0.5]], np.float32)
TIMES = np.array([0.3, 0.6], np.float32)


def score(t, x, *conditions):
    return -x


def fixed(**arguments):
    return arguments


def some_processes() -> Iterator[Call]:
    yield Call("OU", processes.OU, fixed(theta=Number(1.0), sigma=Number(1.0), horizon=Number(1.0)))
    yield Call(
        "VE",
        processes.VE,
        fixed(sigma_min=Number(0.01), sigma_max=Number(5.0), horizon=Number(1.0)),
    )
    for make in (
        processes.VP,
        processes.SubVP,
        processes.ContractiveVP,
        processes.ContractiveSubVP,
    ):
        yield Call(
            make.__name__,
            make,
            fixed(
                beta_min=Number(0.1, True), beta_max=Number(5.0, True), horizon=Number(1.0, True)
            ),
        )
    yield Call(
        "ContractiveOU",
        processes.ContractiveOU,
        fixed(theta=Number(1.0), sigma=Number(1.0), horizon=Number(1.0)),
    )
    yield Call("EDM", processes.EDM, fixed(sigma_max=Number(80.0), scale_min=Number(1.0)))
    yield Call("RectifiedFlow", processes.RectifiedFlow, fixed(horizon=Number(1.0)))
    yield Call(
        "CosineSchedule",
        processes.CosineSchedule,
        fixed(offset=Number(0.008), beta_max=Number(999.0), horizon=Number(1.0)),
    )
    yield Call(
        "LinearSchedule",
        processes.LinearSchedule,
        fixed(beta_min=Number(0.1), beta_max=Number(5.0), horizon=Number(1.0)),
    )
    yield Call(
        "TabulatedSchedule",
        processes.TabulatedSchedule,
        fixed(betas=Values(np.array([0.01, 0.02, 0.03], np.float32)), horizon=Number(1.0)),
    )
    table = processes.TabulatedSchedule(np.array([0.01, 0.02, 0.03]))
    yield Call("time_of", table.time_of, fixed(index=Values(np.array([0, 2]))))
    yield Call("index_of", table.index_of, fixed(t=Values(TIMES)))
    for process in (processes.VP(0.1, 5.0), processes.EDM(80.0), processes.RectifiedFlow()):
        name = type(process).__name__
        yield Call(f"{name}.marginal", process.marginal, fixed(t=Values(TIMES)))
        yield Call(f"{name}.drift", process.drift, fixed(t=Values(TIMES), x=Values(POINTS)))
        yield Call(f"{name}.diffusion", process.diffusion, fixed(t=Values(TIMES)))
        yield Call(
            f"{name}.transition",
            process.transition,
            fixed(s=Values(np.float32(0.1)), t=Values(np.float32(0.4))),
        )
        yield Call(f"{name}.contraction_rate", process.contraction_rate, fixed(t=Values(TIMES)))
        yield Call(f"{name}.time_at", process.time_at, fixed(ratio=Values(TIMES)))
        yield Call(
            f"{name}.sample_marginal",
            process.sample_marginal,
            fixed(key=Key(), x_0=Values(POINTS), t=Values(TIMES)),
        )
        yield Call(
            f"{name}.reverse", process.reverse, fixed(score_fn=score, noise_level=Number(1.0))
        )
    vp = processes.VP(0.1, 5.0)
    for make in (grids.uniform, grids.quadratic, grids.log_snr):
        yield Call(
            f"grids.{make.__name__}", make, fixed(process=vp, steps=Count(3), end=Number(0.1, True))
        )
    yield Call(
        "grids.edm",
        grids.edm,
        fixed(process=vp, steps=Count(3), rho=Number(7.0), end=Number(0.1, True)),
    )
    yield Call(
        "wasserstein_bound",
        contraction.wasserstein_bound,
        fixed(
            process=vp,
            initial_error=Number(0.1),
            score_error=Number(0.1),
            lipschitz=Number(1.0),
            h=Number(0.1, True),
        ),
    )
    yield Call("margin", contraction.margin, fixed(process=vp, lipschitz=Number(1.0)))
    yield Call(
        "total_variation_bound",
        contraction.total_variation_bound,
        fixed(process=vp, initial_error=Number(0.1), score_error=Number(0.1)),
    )
    yield Call(
        "coefficients",
        consistency_function.coefficients,
        fixed(process=vp, t=Values(TIMES), end=Number(0.01), data_std=Number(1.0)),
    )
    yield Call(
        "from_normalized_v",
        consistency_function.from_normalized_v,
        fixed(process=vp, network=score, end=Number(0.01), data_std=Number(1.0)),
    )
    yield Call(
        "score_from_normalized_v",
        consistency_function.score_from_normalized_v,
        fixed(process=vp, network=score, data_std=Number(1.0)),
    )
    yield Call(
        "level_times",
        consistency_function.level_times,
        fixed(process=vp, end=Number(0.01), power=Number(7.0)),
    )
    yield Call(
        "score_from_points",
        processes.score_from_points,
        fixed(
            process=vp,
            t=Values(np.float32(0.4)),  # at 0 the score of points is not finite
            x=Values(POINTS),
            points=Values(POINTS),
            floor=Number(0.0),
        ),
    )
    yield Call(
        "RatioScore",
        processes.RatioScore,
        fixed(process=vp, draw=score, m=Count(3), floor=Number(0.0)),
    )
    yield Call(
        "DataPoints",
        processes.DataPoints,
        fixed(points=Values(POINTS), labels=Values(np.array([0, 1]), True)),
    )


def some_solvers() -> Iterator[Call]:
    vp = processes.VP(0.1, 5.0)
    grid = np.asarray(grids.uniform(vp, 2, end=0.1))
    yield Call(
        "sample",
        solvers.sample,
        fixed(
            key=Key(),
            process=vp,
            score_fn=score,
            shape=Shape((2, 2)),
            steps=Count(2),
            noise_level=Number(1.0, True),
            start_std=Number(1.0, True),
        ),
    )
    yield Call(
        "sample/grid",
        solvers.sample,
        fixed(key=Key(), process=vp, score_fn=score, shape=Shape((2, 2)), grid=Values(grid)),
    )
    yield Call(
        "sample_adaptive",
        solvers.sample_adaptive,
        fixed(
            key=Key(),
            process=vp,
            score_fn=score,
            shape=Shape((2, 2)),
            end=Number(0.1, True),
            tolerance=Number(1e-1),
        ),
    )
    yield Call(
        "sample_consistency",
        solvers.sample_consistency,
        fixed(
            key=Key(),
            process=vp,
            consistency_fn=score,
            shape=Shape((2, 2)),
            end=Number(0.1),
            times=Values(np.array([0.5], np.float32), True),
        ),
    )
    yield Call(
        "simulate",
        solvers.simulate,
        fixed(
            key=Key(),
            sde=vp.reverse(score),
            x_0=Values(POINTS),
            grid=Values(grid),
            solver=solvers.EulerMaruyama(),
            save=Choice("last"),
        ),
    )
    yield Call(
        "log_likelihood",
        solvers.log_likelihood,
        fixed(process=vp, score_fn=score, x_0=Values(POINTS), divergence=Choice("exact")),
    )
    yield Call(
        "bits_per_dim",
        solvers.bits_per_dim,
        fixed(log_prob=Values(PAIR), dimension=Count(3), bin_width=Number(1.0)),
    )
    yield Call(
        "gaussian_log_prob",
        solvers.gaussian_log_prob,
        fixed(noise=Values(POINTS), std=Values(np.array(0.3, np.float32))),
    )
    yield Call("ExponentialEuler", solvers.ExponentialEuler, fixed(eta=Number(1.0)))
    yield Call(
        "PredictorCorrector",
        solvers.PredictorCorrector,
        fixed(corrector_steps=Count(1), snr=Number(0.16)),
    )
    yield Call("DPMSolverPP2M", solvers.DPMSolverPP2M, fixed())
    yield Call(
        "StochasticHeun",
        solvers.StochasticHeun,
        fixed(
            s_churn=Number(0.0),
            s_min=Number(0.0),
            s_max=Number(2.0),
            s_noise=Number(1.0),
            steps=Count(3, True),
        ),
    )
    yield Call(
        "Inpainting",
        solvers.Inpainting,
        fixed(
            solver=solvers.EulerMaruyama(),
            known=Values(POINTS),
            mask=Values(np.ones((2, 2), bool)),
            passes=Count(1),
        ),
    )
    yield Call(
        "classifier_free",
        lambda scale: guidance.classifier_free(lambda t, x, c: -x, scale, (jnp.zeros(1),))(
            jnp.array(0.3), jnp.asarray(POINTS), jnp.zeros(2)
        ),
        fixed(scale=Number(2.0)),
    )
    yield Call(
        "BrownianPath.draw",
        solvers.BrownianPath.draw,
        fixed(key=Key(), grid=Values(grid), like=Values(POINTS)),
    )
    path = solvers.BrownianPath.draw(jax.random.key(0), jnp.linspace(0.0, 1.0, 5), jnp.ones((2, 2)))
    yield Call("coarsen", path.coarsen, fixed(factor=Count(2)))
    yield Call(
        "kl_rate",
        girsanov.kl_rate,
        fixed(weight=Values(np.float32(0.3)), score=Values(POINTS), other=Values(POINTS)),
    )
    yield Call(
        "trace",
        jacobian_trace.exact,
        fixed(field=lambda x: -x, x=Values(POINTS), at_once=Count(16)),
    )
    yield Call(
        "projected",
        jacobian_trace.projected,
        fixed(field=lambda x: -x, x=Values(POINTS), direction=Values(POINTS)),
    )
    yield Call("rademacher", jacobian_trace.rademacher, fixed(key=Key(), like=Values(POINTS)))
    yield Call("gaussian", jacobian_trace.gaussian, fixed(key=Key(), like=Values(POINTS)))


def some_losses() -> Iterator[Call]:
    pair = fixed(log_ratio_chosen=Values(PAIR), log_ratio_rejected=Values(-PAIR))
    probs = fixed(log_prob_chosen=Values(-(PAIR**2)), log_prob_rejected=Values(-(PAIR**2) - 1))
    beta, weights = Number(0.1), Values(np.ones(2, np.float32), True)
    both = fixed(beta=beta, weights=weights)
    smoothing = Number(0.1)
    dispersion = Values(np.array([0.3, 0.9], np.float32))
    for name, more in (
        ("dpo", fixed(label_smoothing=smoothing)),
        ("robust", fixed(label_smoothing=smoothing)),
        ("exo", fixed(label_smoothing=smoothing)),
        ("hinge", {}),
        ("ipo", {}),
        ("nca", {}),
        ("discopop", fixed(tau=Number(0.05))),
        ("f_dpo", fixed(divergence=Choice("alpha"), alpha=Number(0.5))),
        ("aot", fixed(label_smoothing=smoothing, mass=weights)),
        ("apo", fixed(variant=Choice("zero"))),
        ("bco", fixed(shift=Number(0.1))),
        ("kto_pairs", fixed(desirable_weight=Number(1.0), undesirable_weight=Number(1.0))),
        ("sppo", fixed(win_probability=Number(1.0))),
        ("mallows_ipo", fixed(dispersion=dispersion)),
        ("mallows_theta", fixed(dispersion=dispersion)),
        (
            "mallows_phi",
            fixed(dispersion=dispersion, link=Choice("cubic"), epsilon=Number(0.1, True)),
        ),
    ):
        yield Call(name, getattr(preference, name), {**pair, **both, **more})
    for name, more in (
        ("cpo", fixed(label_smoothing=smoothing, nll_weight=Number(1.0))),
        ("orpo", fixed(nll_weight=Number(1.0))),
        ("simpo", fixed(gamma=Number(0.5), alpha=Number(0.1, True), label_smoothing=smoothing)),
        ("mallows_simpo", fixed(gamma=Number(0.5), dispersion=dispersion)),
    ):
        yield Call(name, getattr(preference, name), {**probs, **both, **more})
    yield Call("sft", preference.sft, fixed(log_prob_chosen=Values(-(PAIR**2)), weights=weights))
    yield Call(
        "bradley_terry",
        preference.bradley_terry,
        fixed(reward_chosen=Values(PAIR), reward_rejected=Values(-PAIR), weights=weights),
    )
    yield Call(
        "kto",
        preference.kto,
        fixed(
            log_ratio=Values(PAIR),
            desirable=Values(np.array([True, False])),
            kl=Number(0.1),
            beta=beta,
            desirable_weight=Number(1.0),
            undesirable_weight=Number(1.0),
            weights=weights,
        ),
    )
    for name in ("mallows_link", "mallows_log_link"):
        yield Call(
            name,
            getattr(preference, name),
            fixed(
                s=Values(PAIR),
                dispersion=dispersion,
                link=Choice("exact"),
                epsilon=Number(None, True),
            ),
        )
    yield Call(
        "dispersion_from_index",
        preference.dispersion_from_index,
        fixed(index=dispersion, scale=Number(2.0)),
    )
    yield Call(
        "dispersion_scale", preference.dispersion_scale, fixed(index=dispersion, weights=weights)
    )
    yield Call(
        "dispersion_index",
        preference.dispersion_index,
        fixed(
            hidden=Values(np.ones((2, 4, 2), np.float32)),
            head=Values(np.ones((2, 3), np.float32)),
            mask=Values(np.ones((2, 4), bool)),
            chunk=Count(2),
        ),
    )
    yield Call(
        "token_log_probs",
        losses.token_log_prob.token_log_probs,
        fixed(
            hidden=Values(np.ones((4, 2), np.float32)),
            head=Values(np.ones((2, 3), np.float32)),
            targets=Values(np.array([0, 1, 2, 0])),
            chunk=Count(2, True),
            cap=Number(5.0, True),
        ),
    )
    adv = losses.advantage
    running, terminal = np.ones((3, 2), np.float32), np.ones(2, np.float32)
    yield Call(
        "returns_to_go",
        adv.returns_to_go,
        fixed(running=Values(running), terminal=Values(terminal)),
    )
    yield Call(
        "advantage.generalized",
        adv.generalized,
        fixed(
            values=Values(running),
            running=Values(running),
            terminal=Values(terminal),
            trace=Number(0.9),
        ),
    )
    for f in (adv.standardized, adv.spread):
        yield Call(
            f.__name__,
            f,
            fixed(
                values=Values(PAIR),
                weights=weights,
                groups=Values(np.array([0, 0]), True),
                scale=Number(0.0),
            ),
        )
    yield Call(
        "scaled",
        adv.scaled,
        fixed(
            values=Values(PAIR),
            by=Choice("batch"),
            weights=weights,
            groups=Values(np.array([0, 0]), True),
        ),
    )
    yield Call(
        "spread_within",
        adv.spread_within,
        fixed(values=Values(PAIR), seen=Values(POINTS), present=Values(np.ones((2, 2), bool))),
    )
    rate = losses.advantage_rate
    row = Values(PAIR)
    vnr = fixed(value=row, next_value=row, reward=row)
    yield Call(
        "difference_quotient",
        rate.difference_quotient,
        fixed(**vnr, dt=Number(0.1), discount=Number(0.5)),
    )
    yield Call(
        "pathwise",
        rate.pathwise,
        fixed(**vnr, martingale=row, dt=Number(0.1), discount=Number(0.5)),
    )
    yield Call(
        "rate.generalized",
        rate.generalized,
        fixed(rates=Values(running), dt=Number(0.1), discount=Number(0.5), memory=Number(0.5)),
    )
    yield Call(
        "martingale_increment",
        rate.martingale_increment,
        fixed(value_fn=lambda x: jnp.sum(x, -1), x=Values(POINTS), increment=Values(POINTS)),
    )
    yield Call(
        "generator",
        rate.generator,
        fixed(
            value_fn=lambda x: jnp.sum(x**2, -1),
            x=Values(POINTS),
            drift=Values(POINTS),
            diffusion=Values(np.ones((2, 2, 1), np.float32)),
            reward=row,
            discount=Number(0.5),
        ),
    )
    for f in (losses.consistency.distillation, losses.consistency.training):
        yield Call(
            f"consistency.{f.__name__}",
            f,
            fixed(
                prediction=Values(POINTS),
                target=Values(-POINTS),
                huber=Number(0.1, True),
                weights=weights,
            ),
        )
    g = losses.gaussian
    ones = Values(np.ones((2, 2), np.float32))
    yield Call(
        "gaussian.log_prob", g.log_prob, fixed(mean=Values(POINTS), std=ones, action=Values(POINTS))
    )
    yield Call(
        "gaussian.kl",
        g.kl,
        fixed(mean=Values(POINTS), std=ones, mean_old=Values(POINTS), std_old=ones),
    )
    yield Call("gaussian.entropy", g.entropy, fixed(std=ones))
    p = losses.path_log_ratio
    yield Call(
        "from_noise_errors",
        p.from_noise_errors,
        fixed(error=row, reference_error=row, share=Number(0.5)),
    )
    yield Call("from_stored_steps", p.from_stored_steps, fixed(log_ratio=row, clip=Number(0.5)))
    po = losses.policy
    yield Call(
        "policy_gradient", po.policy_gradient, fixed(log_prob=row, advantage=row, weights=weights)
    )
    yield Call(
        "clipped_surrogate",
        po.clipped_surrogate,
        fixed(log_ratio=row, advantage=row, clip=Number(0.2), weights=weights),
    )
    yield Call(
        "sqrt_kl_surrogate",
        po.sqrt_kl_surrogate,
        fixed(
            log_ratio=row,
            advantage=row,
            kl=Values(PAIR**2),
            penalty=Number(0.3),
            epsilon=Number(1e-6),
            weights=weights,
        ),
    )
    yield Call(
        "linear_kl_surrogate",
        po.linear_kl_surrogate,
        fixed(
            log_ratio=row, advantage=row, kl=Values(PAIR**2), penalty=Number(0.3), weights=weights
        ),
    )
    yield Call(
        "adapt_penalty",
        po.adapt_penalty,
        fixed(
            penalty=Number(0.3),
            divergence=Number(0.1),
            target=Number(0.02),
            tolerance=Number(0.1),
            factor=Number(1.5),
            least=Number(1e-4),
            greatest=Number(1e4),
        ),
    )
    yield Call(
        "value_gradient",
        po.value_gradient,
        fixed(mean=Values(POINTS), gradient=Values(POINTS), weights=weights),
    )
    q = losses.q_learning
    yield Call(
        "gaussian_rate",
        q.gaussian_rate,
        fixed(square=row, rate=Number(0.5), dimension=Count(2), temperature=Number(0.3)),
    )
    for f in (q.martingale_residual, q.squared):
        yield Call(f"q.{f.__name__}", f, fixed(**vnr, q=row, dt=Number(0.1), weights=weights))
    yield Call("moment", q.moment, fixed(residual=row, test=row, weights=weights))
    sm = losses.score_matching
    yield Call(
        "explicit", sm.explicit, fixed(score=Values(POINTS), target=Values(POINTS), weights=weights)
    )
    yield Call(
        "implicit", sm.implicit, fixed(score=Values(POINTS), divergence=row, weights=weights)
    )
    yield Call(
        "sliced",
        sm.sliced,
        fixed(score=Values(POINTS), curvature=row, direction=Values(POINTS, True), weights=weights),
    )
    yield Call(
        "denoising",
        sm.denoising,
        fixed(score=Values(POINTS), noise=Values(POINTS), std=Values(TIMES), weights=weights),
    )
    yield Call(
        "flow",
        sm.flow,
        fixed(
            prediction=Values(POINTS),
            x_0=Values(POINTS),
            noise=Values(POINTS),
            horizon=Number(1.0),
            weights=weights,
        ),
    )
    yield Call(
        "min_snr",
        losses.time_weighting.min_snr,
        fixed(process=processes.VP(0.1, 5.0), gamma=Number(5.0)),
    )
    for f in (losses.value.martingale,):
        yield Call("value.martingale", f, fixed(value=row, return_to_go=row, weights=weights))
    yield Call(
        "temporal_difference",
        losses.value.temporal_difference,
        fixed(value=row, next_value=row, running_reward=row, weights=weights),
    )


def some_metrics() -> Iterator[Call]:
    d, f = metrics.distances, metrics.frontier
    x, y = Values(POINTS), Values(-POINTS)
    row, other = Values(PAIR), Values(-PAIR)
    yield Call("energy_distance", d.energy_distance, fixed(x=x, y=y))
    yield Call("mean_pairwise", d.mean_pairwise, fixed(x=x))
    yield Call("mmd", d.mmd, fixed(x=x, y=y, bandwidths=Values(np.array([1.0], np.float32), True)))
    yield Call(
        "frechet",
        d.frechet,
        fixed(
            x=Values(np.concatenate([POINTS, -POINTS])),
            y=Values(np.concatenate([POINTS, 2 * POINTS])),
        ),
    )
    yield Call(
        "sliced_wasserstein",
        d.sliced_wasserstein,
        fixed(key=Key(), x=x, y=y, projections=Count(3), order=Number(2.0)),
    )
    yield Call("wasserstein_1d", d.wasserstein_1d, fixed(x=row, y=other, order=Number(2.0)))
    yield Call(
        "wasserstein_assignment",
        d.wasserstein_assignment,
        fixed(x=x, y=y, order=Number(2.0), largest=Count(100)),
    )
    yield Call("feature_moments", d.feature_moments, fixed(batches=x, batch=Count(2)))
    yield Call(
        "ideal",
        f.ideal,
        fixed(
            rewards=row,
            temperatures=Values(np.array([0.5, 1.0], np.float32)),
            successes=Values(np.array([True, False]), True),
        ),
    )
    yield Call(
        "optimal_objective", f.optimal_objective, fixed(rewards=row, temperature=Number(0.5))
    )
    front = f.ideal(np.arange(8.0), np.array([0.5, 1.0]), np.arange(8) > 4)
    yield Call(
        "kl_at_success",
        lambda **a: f.kl_at_success(front, **a),
        fixed(success=Number(0.7), least_effective_samples=Number(1.0)),
    )


def some_environments() -> Iterator[Call]:
    e = environments
    yield Call(
        "LinearQuadratic",
        e.LinearQuadratic,
        {
            k: Number(v)
            for k, v in dict(
                A=-1.0,
                B=0.6,
                C=0.3,
                D=0.5,
                M=2.0,
                N=2.0,
                R=1.0,
                P=1.0,
                Q=2.0,
                discount=1.0,
                temperature=0.1,
            ).items()
        },
    )
    yield Call(
        "VectorLinearQuadratic",
        e.VectorLinearQuadratic,
        {
            "A": Values(np.array([[-0.5, 0.3], [0.1, -0.8]])),
            "B": Values(np.array([[0.7, 0.2], [-0.1, 0.5]])),
            "M": Values(np.array([[1.5, 0.2], [0.2, 1.0]])),
            "N": Values(np.array([[1.0, 0.1], [0.1, 0.8]])),
            "R": Values(np.array([[0.2, 0.0], [0.1, 0.3]])),
            "noise": Values(np.array([[0.4, 0.0], [0.0, 0.3]])),
            "discount": Number(0.6),
            "temperature": Number(0.2),
        },
    )
    yield Call(
        "PairTrading",
        e.PairTrading,
        {
            k: Number(v)
            for k, v in dict(
                k=1.0,
                theta=0.1,
                eta=0.25,
                sigma=0.3,
                rho=0.4,
                r=0.02,
                discount=0.5,
                temperature=0.05,
            ).items()
        },
    )
    yield Call(
        "Pendulum",
        e.Pendulum,
        {
            k: Number(v)
            for k, v in dict(
                gravity=5.0, damping=0.2, noise=0.3, torque=3.0, discount=0.5, temperature=0.02
            ).items()
        },
    )
    vp = processes.VP(0.1, 5.0)
    yield Call(
        "GaussianSteering",
        e.GaussianSteering,
        fixed(
            process=vp,
            mean=Number(0.5),
            variance=Number(0.4),
            curvature=Number(0.3),
            target=Number(1.0),
            penalty=Number(0.7),
        ),
    )
    yield Call(
        "GaussianSteering/mixture",
        e.GaussianSteering,
        fixed(
            process=vp,
            mean=Values(PAIR),
            variance=Values(PAIR**2),
            curvature=Number(0.3),
            target=Number(1.0),
            penalty=Number(0.7),
            weights=Values(np.array([0.4, 0.6]), True),
        ),
    )
    yield Call(
        "Mixture",
        e.Mixture,
        fixed(
            weights=Values(np.array([0.4, 0.6], np.float32)),
            means=Values(POINTS),
            variances=Values(POINTS**2),
        ),
    )
    mix = e.Mixture(jnp.array([0.4, 0.6]), jnp.array([[0.0], [1.0]]), jnp.array([[1.0], [2.0]]))
    yield Call("Mixture.sample", mix.sample, fixed(key=Key(), number=Count(3)))
    lq = o1()
    policy = environments.LinearGaussian(-0.3, 0.2, 0.8)
    yield Call(
        "mirror_step", lambda penalty: lq.mirror_step(policy, penalty), fixed(penalty=Number(0.3))
    )
    yield Call("optimal_value", lq.optimal_value, fixed(x=Number(0.3)))
    yield Call("o3.optimal_value", o3().optimal_value, fixed(log_v=Number(0.3), x=Number(0.1)))
    yield Call(
        "simulate_control",
        e.simulate_control,
        fixed(
            key=Key(),
            environment=lq,
            policy=lambda x: (-0.3 * x, jnp.ones_like(x)),
            x_0=Values(POINTS[:, :1]),
            dt=Number(0.1),
            steps=Count(2),
        ),
    )


def some_data() -> Iterator[Call]:
    yield Call(
        "pack_pairs",
        lambda length, pairs_per_row, **p: data.pack_pairs(
            [data.TokenPair(**p)], length=length, pairs_per_row=pairs_per_row
        ),
        fixed(
            prompt=Values(np.array([1, 2])),
            chosen=Values(np.array([3, 4])),
            rejected=Values(np.array([5])),
            weight=Number(1.0),
            dispersion=Number(0.5, True),
            length=Count(8, True),
            pairs_per_row=Count(1, True),
        ),
    )
    for f, n in (
        (data.class_names, "path"),
        (data.read_preferences, "path"),
        (data.load_folder, "path"),
        (data.load_tokenizer, "folder"),
        (runtime.load_model, "folder"),
        (runtime.load, "run"),
        (runtime.read_metrics, "path"),
        (runtime.read_json, "path"),
        (runtime.content_digest, "path"),
        (runtime.load_callable, "spec"),
    ):
        yield Call(f.__name__, f, {n: Choice("/nonexistent/file")})


def model() -> networks.Model:
    return linear_policy(np.zeros((2, 2)), np.zeros(2), np.ones(2))


def some_algorithms() -> Iterator[Call]:
    a = algorithms
    vp = processes.VP(0.1, 5.0)
    grid = np.asarray(grids.uniform(vp, 4, end=0.1))
    reference = networks.Model(lambda key: (), lambda params, t, x, *c: -x)
    problem_arguments = fixed(
        process=vp,
        reference=reference,
        reward_fn=lambda x: x[:, 0],
        shape=Shape((2,)),
        grid=Values(grid),
        penalty=Number(0.3),
        start_std=Number(1.0, True),
    )
    yield Call("DiffusionControl", a.DiffusionControl, problem_arguments)
    problem = a.DiffusionControl(vp, reference, lambda x: x[:, 0], (2,), jnp.asarray(grid), 0.3)
    yield Call(
        "RewardDirection",
        a.RewardDirection,
        fixed(
            process=vp,
            estimate=score,
            reward_fn=lambda x: x[:, 0],
            shape=Shape((2,)),
            grid=Values(grid),
            weight=Number(1.0),
            temperature=Number(0.3),
            start_std=Number(1.0, True),
        ),
    )
    yield Call(
        "PolicyUpdate",
        a.PolicyUpdate,
        fixed(epochs=Count(1), minibatches=Count(2), chunks=Count(1), average_decay=Number(0.0)),
    )
    yield Call("ValueUpdate", a.ValueUpdate, fixed(epochs=Count(1), minibatches=Count(2)))
    yield Call(
        "PreferenceUpdate", a.PreferenceUpdate, fixed(epochs=Count(1), average_decay=Number(0.0))
    )
    yield Call(
        "PromptStatistics",
        a.PromptStatistics,
        fixed(prompts=Count(3), buffer=Count(16), least=Count(16)),
    )
    yield Call(
        "ConsistencyConfig",
        a.ConsistencyConfig,
        fixed(
            steps=Count(40),
            first_levels=Count(10),
            doublings=Count(2),
            target_decay=Number(0.0),
            average_decay=Number(0.9),
            huber=Number(0.001, True),
            teacher_order=Count(2),
        ),
    )
    yield Call(
        "OccupationConfig",
        a.OccupationConfig,
        fixed(
            occupation=Choice("stopping"),
            draws=Count(16),
            estimator=Choice("pathwise"),
            memory=Number(0.5),
            value_loss=Choice("martingale"),
            value_epochs=Count(10),
        ),
    )
    yield Call(
        "ProximalConfig",
        a.ProximalConfig,
        fixed(
            penalty=Choice("sqrt_kl"),
            target=Number(0.02),
            tolerance=Number(0.1),
            factor=Number(1.5),
            start=Number(1.0),
            clip=Number(0.2),
            rounding=Number(1e-6),
            epochs=Count(10),
        ),
    )
    yield Call(
        "QLearningConfig",
        a.QLearningConfig,
        fixed(
            epochs=Count(1),
            estimator=Choice("gradient"),
            trace=Number(0.0),
            average_decay=Number(0.0),
        ),
    )
    yield Call(
        "LMPreference",
        a.LMPreference,
        fixed(
            beta=Number(1.0),
            accumulate=Count(1),
            chunk=Count(2, True),
            average_decay=Number(0.0),
            rewards=Choice("log_ratios"),
        ),
    )
    yield Call(
        "ContinuousControl",
        lambda **given: a.ContinuousControl(**given).steps,
        fixed(environment=o1(), dt=Number(0.1), horizon=Number(1.0)),
    )
    yield Call("generalized_advantage", a.generalized_advantage, fixed(trace=Number(0.9)))
    optimizer, policy, value = optax.sgd(1e-2), model(), quadratic_value(2)
    critic = a.Critic(value, optimizer, a.ValueUpdate(1, 2))
    update = a.PolicyUpdate(1, 2)
    common = fixed(problem=problem, policy_model=policy, optimizer=optimizer, update=update)
    yield Call(
        "make_ppo", a.make_ppo, fixed(**common, critic=critic, trace=Number(0.9), clip=Number(0.2))
    )
    yield Call(
        "make_policy_gradient",
        a.make_policy_gradient,
        fixed(**common, critic=critic, trace=Number(0.9)),
    )
    yield Call(
        "make_ddpo",
        a.make_ddpo,
        fixed(
            **{
                **common,
                "problem": a.DiffusionControl(
                    vp, reference, lambda x: x[:, 0], (2,), jnp.asarray(grid), 0.0
                ),
            },
            clip=Number(0.2),
            clamp=Number(5.0, True),
        ),
    )
    yield Call("make_dpok", a.make_dpok, fixed(**common, clip=Number(0.2)))
    control = a.ContinuousControl(o1(), 0.1, 1.0)
    cc = fixed(
        problem=control,
        policy_model=policy,
        value_model=value,
        optimizer=optimizer,
        value_optimizer=optimizer,
    )
    yield Call(
        "make_discrete_ppo",
        a.make_discrete_ppo,
        fixed(**cc, trace=Number(0.9), clip=Number(0.2), epochs=Count(1)),
    )
    yield Call(
        "make_discrete_policy_gradient",
        a.make_discrete_policy_gradient,
        fixed(**cc, trace=Number(0.9)),
    )
    times = a.uniform_times(vp, 0.01)
    yield Call("uniform_times", a.uniform_times, fixed(process=vp, end=Number(0.01)))
    yield Call(
        "make_score_pretraining",
        a.make_score_pretraining,
        fixed(
            process=vp,
            model=policy,
            optimizer=optimizer,
            sample_times=times,
            average_decay=Number(0.9),
        ),
    )
    yield Call(
        "make_consistency_training",
        a.make_consistency_training,
        fixed(process=vp, model=policy, optimizer=optimizer, end=Number(0.01)),
    )
    yield Call(
        "make_offline_preference",
        a.make_offline_preference,
        fixed(
            process=vp,
            model=policy,
            optimizer=optimizer,
            loss_fn=score,
            sample_times=times,
            nats=Number(1.0),
            average_decay=Number(0.0),
        ),
    )
    yield Call(
        "named_loss",
        a.named_loss,
        fixed(name=Choice("robust"), beta=Number(0.1), label_smoothing=Number(0.1)),
    )
    yield Call(
        "named_loss/several",
        a.named_loss,
        fixed(name=("dpo", "sft"), beta=Number(0.1), shares=Values(np.array([1.0, 0.5]), True)),
    )
    yield Call(
        "rewards.standardized",
        rewards.standardized,
        fixed(reward_fn=lambda x: x[:, 0], scores=Values(np.array([0.3, 0.7, 0.1], np.float32))),
    )
    yield Call(
        "rewards.weighted",
        lambda weight, x: rewards.weighted({"first": (lambda x: x[:, 0], weight)})(x),
        fixed(weight=Number(0.5), x=POINTS),
    )
    yield Call(
        "rewards.combined",
        lambda weight, **rest: rewards.combined({"a": np.arange(2.0)}, {"a": weight}, **rest),
        fixed(
            weight=Number(0.5),
            scale=Choice("group"),
            groups=Values(np.array([0, 0]), True),
            present=Values(np.ones(2), True),
        ),
    )
    yield Call(
        "ServerOptions",
        rewards.ServerOptions,
        fixed(
            batch=Count(16),
            requests=Count(4),
            timeout=Number(60.0),
            retries=Count(4),
            pause=Number(1.0),
        ),
    )
    picture = Values(np.linspace(0, 1, 96, dtype=np.float32).reshape(1, 4, 8, 3))
    for size in (rewards.jpeg_size, rewards.soft_jpeg_size):
        yield Call(size.__name__, size, fixed(pictures=picture, quality=Count(95)))
    yield Call(
        "resize",
        rewards.resize,
        fixed(pictures=picture, height=Count(5), width=Count(3), kernel=Choice("bicubic")),
    )


def abstract(make: Callable[..., Any]) -> Callable[..., Any]:
    """Return a maker of a network whose parameters are never drawn."""

    def made(**arguments):
        return nnx.eval_shape(lambda: make(**arguments, rngs=nnx.Rngs(0)))

    return made


def some_networks() -> Iterator[Call]:
    n = networks
    yield Call(
        "MLP",
        abstract(n.MLP),
        fixed(
            shape=Shape((2,)),
            width=Count(8),
            depth=Count(1),
            embedding=Count(8),
            out=Count(1, True),
            horizon=Number(1.0),
            classes=Count(0),
        ),
    )
    yield Call(
        "ValueMLP", abstract(n.ValueMLP), fixed(shape=Shape((2,)), width=Count(8), depth=Count(1))
    )
    yield Call(
        "DiT",
        abstract(n.DiT),
        fixed(
            shape=Shape((4, 4, 1)),
            patch=Count(2),
            width=Count(8),
            depth=Count(1),
            heads=Count(2),
            horizon=Number(1.0),
            classes=Count(0),
        ),
    )
    yield Call(
        "UNet",
        abstract(n.UNet),
        fixed(
            shape=Shape((4, 4, 1)),
            width=Count(8),
            levels=Count(2),
            embedding=Count(8),
            horizon=Number(1.0),
            classes=Count(0),
        ),
    )
    yield Call(
        "NCSNppConfig",
        n.NCSNppConfig,
        fixed(
            width=Count(8),
            blocks=Count(1),
            dropout=Number(0.1),
            fourier_scale=Number(16.0, True),
            progressive_input=Choice("none"),
        ),
    )
    yield Call("LoRA", n.LoRA, fixed(rank=Count(8), alpha=Number(16.0)))
    yield Call("Rotary", n.Rotary, fixed(base=Number(1e4), fraction=Number(1.0)))
    yield Call("Learned", n.Learned, fixed(length=Count(8)))
    yield Call("LinearScaling", n.LinearScaling, fixed(factor=Number(2.0)))
    yield Call("DynamicScaling", n.DynamicScaling, fixed(factor=Number(2.0), length=Count(8)))
    yield Call(
        "YarnScaling",
        n.YarnScaling,
        fixed(
            factor=Number(2.0),
            length=Count(8),
            fast=Number(32.0),
            slow=Number(1.0),
            attention=Number(1.0, True),
        ),
    )
    yield Call(
        "Llama3Scaling",
        n.Llama3Scaling,
        fixed(factor=Number(2.0), low=Number(1.0), high=Number(4.0), length=Count(8)),
    )
    yield Call(
        "LongScaling",
        n.LongScaling,
        fixed(short=(1.0, 2.0), long=(1.0, 2.0), length=Count(8), attention=Number(1.0)),
    )
    yield Call(
        "DecoderConfig",
        n.DecoderConfig,
        fixed(
            vocabulary=Count(11),
            width=Count(8),
            depth=Count(1),
            heads=Count(2),
            key_heads=Count(1),
            head_width=Count(4),
            hidden=Count(8),
            positions=n.Rotary(),
            norm=Choice("rms"),
            epsilon=Number(1e-5),
            activation=Choice("silu"),
            window=Count(4, True),
            score_cap=Number(5.0, True),
            logit_cap=Number(5.0, True),
            score_scale=Number(0.5, True),
        ),
    )
    yield Call("causal_mask", n.causal_mask, fixed(batch=Count(2), tokens=Count(3)))
    yield Call(
        "text_mask",
        n.text_mask,
        fixed(texts=Values(np.array([[1, 1, 2]])), branches=Values(np.array([[0, 1, 0]]), True)),
    )
    yield Call(
        "DiffusionSpec",
        models.DiffusionSpec,
        fixed(
            network=Choice("mlp"),
            width=Count(8),
            depth=Count(1),
            patch=Count(2),
            beta_min=Number(0.1),
            beta_max=Number(5.0),
            end=Number(0.01),
        ),
    )
    yield Call(
        "SteeringSpec",
        models.SteeringSpec,
        fixed(
            means=(0.0, 1.0),
            variances=(1.0, 2.0),
            weights=(0.5, 0.5),
            curvature=Number(0.3),
            target=Number(1.0),
            penalty=Number(0.5),
            horizon=Number(3.0),
            end=Number(0.01),
            width=Count(8),
            depth=Count(1),
        ),
    )


def some_runtime() -> Iterator[Call]:
    def option(make):
        def made(**arguments):
            config = make(**arguments)
            runtime.validate(config)
            return config

        return made

    yield Call(
        "RunOptions",
        option(runtime.RunOptions),
        fixed(
            out=Choice("runs", True),
            seed=Count(0),
            steps=Count(3, True),
            precision=Choice("float32", True),
            heartbeat_seconds=Count(100),
            resume=Choice("never"),
        ),
    )
    yield Call(
        "MeshOptions", option(runtime.MeshOptions), fixed(data=Count(1, True), model=Count(1))
    )
    yield Call(
        "LoopOptions",
        option(runtime.LoopOptions),
        fixed(
            fetch_every=Count(10),
            checkpoint_every=Count(1),
            evaluate_every=Count(0),
            max_skipped=Count(10),
        ),
    )
    mesh = runtime.make_mesh(runtime.MeshOptions())
    yield Call(
        "make_mesh",
        lambda **a: runtime.make_mesh(runtime.MeshOptions(**a)),
        fixed(data=Count(1, True), model=Count(1)),
    )
    yield Call("check_batch", runtime.check_batch, fixed(mesh=mesh, size=Count(4)))
    yield Call(
        "train",
        lambda **a: runtime.train(
            lambda s, b: (s + 1, {"finite": jnp.array(True)}),
            jnp.zeros(()),
            None,
            options=runtime.LoopOptions(progress=False),
            **a,
        ),
        fixed(steps=Count(1), start=Count(0)),
    )


FAMILIES = (
    some_processes,
    some_solvers,
    some_losses,
    some_metrics,
    some_environments,
    some_data,
    some_algorithms,
    some_networks,
    some_runtime,
)


def calls() -> dict[str, Call]:
    found = [call for family in FAMILIES for call in family()]
    named = {call.name: call for call in found}
    assert len(named) == len(found)
    return named

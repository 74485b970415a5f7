r"""Preference losses of diffusion models: those of `preference`, on log-ratios of paths.

With e the mean squared error of the noise at one time and noise, the same for both models,
rho = -(e - e_ref)/2 of the chosen and the rejected example, m = rho_w - rho_l,

    diffusion_dpo:            -log sigmoid(beta m)                                       (1)
    diffusion_mallows_theta:  -log sigmoid(-2 log phi beta m)                            (2)
    diffusion_mallows_phi:    -log g(beta m), g of `mallows_link`                        (3)
    diffusion_kto:            lambda sigmoid(+-beta (rho - kl))                          (4)

and d3po, d3po_mallows_theta, d3po_mallows_phi are (1) to (3) of single steps of stored
trajectories, the ratio of each held within 1 - clip and 1 + clip. Log-ratios of whole paths, in
continuous time those of Girsanov, are made by `path_log_ratio`; `preference` takes them as they
are, and has the options that are fixed here, as the width of the cubic link. Values are in float32
at least.

Source: Wallace et al. 2023 (arXiv 2311.12908) (1); Yang et al. 2023 (2311.13231) d3po;
Li et al. 2024 (2404.04465) (4); Chen et al. 2024 (2405.14953) (2), (3) for language models.
"""

from jaxtyping import Array, Bool, Float

from ctrl_jax.losses import path_log_ratio, preference
from ctrl_jax.losses.preference.link import Link
from ctrl_jax.losses.preference.pair import Number


def diffusion_dpo(
    error_chosen: Float[Array, "*batch"],
    error_rejected: Float[Array, "*batch"],
    reference_error_chosen: Float[Array, "*batch"],
    reference_error_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return (1), Diffusion-DPO.

    Args:
        error_chosen: mean square of the model's error of the noise, chosen example.
        error_rejected: the same of the rejected example, at the same time and noise.
        reference_error_chosen: that of the reference model, chosen example.
        reference_error_rejected: that of the reference model, rejected example.
        beta: inverse temperature, in the thousands for images.
        weights: optional weight of each pair.

    Raises:
        ValueError: a shape or dtype is wrong, beta is not positive.
    """
    chosen = path_log_ratio.from_noise_errors(error_chosen, reference_error_chosen)
    rejected = path_log_ratio.from_noise_errors(error_rejected, reference_error_rejected)
    return preference.dpo(chosen, rejected, beta=beta, weights=weights)


def diffusion_mallows_theta(
    error_chosen: Float[Array, "*batch"],
    error_rejected: Float[Array, "*batch"],
    reference_error_chosen: Float[Array, "*batch"],
    reference_error_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    dispersion: Float[Array, "*batch"] | Float[Array, ""] | float,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return (2); arguments as `diffusion_dpo`, dispersion and errors as `mallows_theta`."""
    chosen = path_log_ratio.from_noise_errors(error_chosen, reference_error_chosen)
    rejected = path_log_ratio.from_noise_errors(error_rejected, reference_error_rejected)
    return preference.mallows_theta(
        chosen, rejected, beta=beta, dispersion=dispersion, weights=weights
    )


def diffusion_mallows_phi(
    error_chosen: Float[Array, "*batch"],
    error_rejected: Float[Array, "*batch"],
    reference_error_chosen: Float[Array, "*batch"],
    reference_error_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    dispersion: Float[Array, "*batch"] | Float[Array, ""] | float,
    link: Link = "exact",
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return (3); arguments as `diffusion_dpo`, dispersion, link and errors as `mallows_phi`."""
    chosen = path_log_ratio.from_noise_errors(error_chosen, reference_error_chosen)
    rejected = path_log_ratio.from_noise_errors(error_rejected, reference_error_rejected)
    return preference.mallows_phi(
        chosen, rejected, beta=beta, dispersion=dispersion, link=link, weights=weights
    )


def diffusion_kto(
    error: Float[Array, "*batch"],
    reference_error: Float[Array, "*batch"],
    desirable: Bool[Array, "*batch"],
    kl: Float[Array, "*batch"] | Number,
    *,
    beta: Number,
    desirable_weight: Number = 1.0,
    undesirable_weight: Number = 1.0,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return (4); errors of the noise as in `diffusion_dpo`, the rest as in `preference.kto`."""
    return preference.kto(
        path_log_ratio.from_noise_errors(error, reference_error),
        desirable,
        kl,
        beta=beta,
        desirable_weight=desirable_weight,
        undesirable_weight=undesirable_weight,
        weights=weights,
    )


def d3po(
    log_ratio_chosen: Float[Array, "*batch"],
    log_ratio_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    clip: float = 0.1,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return (1) of single steps, one value for each, for instance of shape (steps, batch).

    Args:
        log_ratio_chosen: log p - log p_ref of steps of the chosen trajectory.
        log_ratio_rejected: the same of the rejected trajectory.
        beta: inverse temperature.
        clip: half-width of the interval around 1 that ratios are held in.
        weights: optional weight of each value.

    Raises:
        ValueError: a shape or dtype is wrong, beta is not positive, clip is not in (0, 1).
    """
    chosen = path_log_ratio.from_stored_steps(log_ratio_chosen, clip=clip)
    rejected = path_log_ratio.from_stored_steps(log_ratio_rejected, clip=clip)
    return preference.dpo(chosen, rejected, beta=beta, weights=weights)


def d3po_mallows_theta(
    log_ratio_chosen: Float[Array, "*batch"],
    log_ratio_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    dispersion: Float[Array, "*batch"] | Float[Array, ""] | float,
    clip: float = 0.1,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return (2) of single steps; arguments as `d3po`, dispersion as `mallows_theta`."""
    chosen = path_log_ratio.from_stored_steps(log_ratio_chosen, clip=clip)
    rejected = path_log_ratio.from_stored_steps(log_ratio_rejected, clip=clip)
    return preference.mallows_theta(
        chosen, rejected, beta=beta, dispersion=dispersion, weights=weights
    )


def d3po_mallows_phi(
    log_ratio_chosen: Float[Array, "*batch"],
    log_ratio_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    dispersion: Float[Array, "*batch"] | Float[Array, ""] | float,
    clip: float = 0.1,
    link: Link = "exact",
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return (3) of single steps; arguments as `d3po`, dispersion and link as `mallows_phi`."""
    chosen = path_log_ratio.from_stored_steps(log_ratio_chosen, clip=clip)
    rejected = path_log_ratio.from_stored_steps(log_ratio_rejected, clip=clip)
    return preference.mallows_phi(
        chosen, rejected, beta=beta, dispersion=dispersion, link=link, weights=weights
    )

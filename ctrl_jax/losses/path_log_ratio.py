r"""Log-ratios of diffusion paths, so that every loss of `preference` is one of diffusion models.

| method | log-ratio | loss |
|---|---|---|
| Diffusion-DPO | `from_noise_errors` of an example of a data set | `dpo` |
| Diffusion-KTO | the same with ``share=1.0`` | `kto` |
| D3PO | `from_stored_steps` of a stored trajectory | `dpo` |
| of paths drawn on the way | `of_steps`, summed | any of pairs |

with `mallows_theta` or `mallows_phi` in the place of `dpo` the Mallows form of each.

A path made with the score a_0 and noise B, dX = (f + g^2 a_0) dr + g dB, has under a model's score
a and the reference's a_ref, by Girsanov twice,

    log dP_a/dP_ref = \int g (a - a_ref) . dB + 1/2 \int g^2 (|a_0 - a_ref|^2 - |a_0 - a|^2) dr. (1)

In a chain of Gaussian steps (`solvers.gaussian_step`) with rate = (gain/std)^2, noise z and
u = sqrt(rate) (a_0 - a) the term of a step is, exactly,

    (|z + u_ref|^2 - |z + u|^2) / 2 = z . (u_ref - u) + (|u_ref|^2 - |u|^2) / 2.             (2)

An example x of a data set has no path, but many that lead to it: those of the reversal pinned at x,
a_0 = -eps/std at x_t = a x + std eps. Over them (1) has the mean

    E log dP_a/dP_ref = -1/2 \int (g/std)^2 E(|eps - eps_a|^2 - |eps - eps_ref|^2) dr,       (3)

eps_a = -std a: a weighted difference of noise errors, in place of which Diffusion-DPO takes that of
one random time with weight one.

Source: arXiv 2311.12908 (3); 2409.08400, section 3 (1); 2311.13231 (D3PO); 2404.04465 (KTO).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._checks import as_float, check_finite, check_positive, refuse
from ctrl_jax._numerics import expand
from ctrl_jax.losses.preference.pair import require_floating, require_same, widened


def from_noise_errors(
    error: Float[Array, "*batch"], reference_error: Float[Array, "*batch"], *, share: float = 0.5
) -> Float[Array, "*batch"]:
    """Return -share (error - reference_error), what stands for the log-ratio of an example's paths.

    With a half it is the integrand of E log dP_a/dP_ref at one time, with weight one: a preference
    loss of it is Diffusion-DPO or a Mallows form of it, and the published betas, in the thousands
    for images, are those of this half. The betas of Diffusion-KTO multiply the whole difference: it
    is ``kto(rho, desirable, kl, beta=...)`` of ``share=1.0``, kl the mean of the batch's rho, cut
    at 0.

    Args:
        error: mean square of eps - eps_a at one time of each example.
        reference_error: the same of the reference model, at the same time and noise.
        share: of the difference; 1/2 as in Diffusion-DPO, 1 as in Diffusion-KTO.

    Returns:
        Shape of the errors, in float32 at least.

    Raises:
        ValueError: a shape or dtype is wrong, or share is not positive.

    Source: Wallace et al. 2023 (arXiv 2311.12908); Li et al. 2024 (2404.04465).
    """
    require_same(error=error, reference_error=reference_error)
    check_positive("share", share)
    share = as_float(share)
    return share * (widened(reference_error) - widened(error))


def from_stored_steps(log_ratio: Float[Array, "*steps"], *, clip: float) -> Float[Array, "*steps"]:
    """Return log-ratios of single steps, the ratios held within 1 - clip and 1 + clip.

    Beyond, the gradient ends. A preference loss of them, one value for each step, is D3PO or a
    Mallows form of it.

    Args:
        log_ratio: log p_a - log p_ref of the stored steps of trajectories.
        clip: in (0, 1); 0.1 in the paper.

    Returns:
        Shape of the log-ratios, in float32 at least.

    Raises:
        ValueError: the dtype is wrong, or clip is not in (0, 1).

    Source: Yang et al. 2023 (arXiv 2311.13231).
    """
    require_floating(log_ratio=log_ratio)
    if not 0 < check_finite("clip", clip) < 1:
        raise refuse("clip", clip, "it must lie in (0, 1)", "give 0.1")
    return jnp.clip(widened(log_ratio), jnp.log1p(-clip), jnp.log1p(clip))


def of_steps(
    rate: Float[Array, " steps"],
    noise: Float[Array, "steps batch ..."],
    driving: Float[Array, "steps batch ..."],
    score: Float[Array, "steps batch ..."],
    reference: Float[Array, "steps batch ..."],
) -> Float[Array, "steps batch"]:
    """Return the log-ratio of every step of paths; its sum over the steps is that of the paths.

    z . (u_ref - u) + (|u_ref|^2 - |u|^2) / 2, with the noise z, u = sqrt(rate) (driving - score)
    and u_ref the same of the reference.

    Args:
        rate: (gain/std)^2 of each step, ``kl_rate`` of the Gaussian step; g^2 dr as dr -> 0.
        noise: standard normals that moved the states; their negatives where the gain is negative,
            as for networks that predict the noise.
        driving: the score that made the paths (that of the reference for its own samples).
        score: the model's score along them.
        reference: the reference's score along them.

    Returns:
        In nats and in float32 at least.

    Raises:
        ValueError: the arrays differ in shape or dtype, or `rate` in the number of steps.

    Source: Girsanov's theorem in a chain of Gaussian steps; arXiv 2409.08400, section 3.
    """
    require_same(noise=noise, driving=driving, score=score, reference=reference)
    if noise.ndim < 2:
        rule = "it must have shape (steps, batch, ...)"
        raise refuse("noise", noise, rule, "give the paths of a batch")
    if rate.shape != noise.shape[:1] or rate.dtype != noise.dtype:
        rule = f"it must be {noise.dtype}[{noise.shape[0]}], one per step of the noise"
        raise refuse("rate", rate, rule, "take `kl_rate` of the steps on the paths' grid")
    noise, driving = widened(noise), widened(driving)
    gain = expand(jnp.sqrt(widened(rate)), noise)
    shift, shift_ref = gain * (driving - widened(score)), gain * (driving - widened(reference))
    terms = (shift_ref - shift) * (noise + (shift_ref + shift) / 2)
    return jnp.sum(terms.reshape(*noise.shape[:2], -1), axis=2)

"""Noise schedules: the rate beta(t) of a process and its integral B(t).

Source: Song et al. 2021 (linear); Nichol and Dhariwal 2021, equation 17 (cosine).
"""

import abc
import math
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from ctrl_jax._checks import as_float, check_all_positive, check_finite_growth, refuse
from ctrl_jax._door import at_the_door
from ctrl_jax._numerics import times
from ctrl_jax.processes.base import LinearProcess, end_of_rate


class NoiseSchedule(eqx.Module):
    """Interface of the schedules; times are in [0, `horizon`]."""

    horizon: eqx.AbstractVar[float]

    @property
    def end(self) -> Any:
        """The forward time at which sampling ends unless it is told: a thousandth of the horizon.

        A schedule with rates that do not go by the horizon gives a time in their unit.
        """
        return 1e-3 * self.horizon

    @property
    def vanishes(self) -> bool:
        """Whether B has no bound at the horizon (zero terminal SNR), where `fall` stays finite."""
        return False

    @property
    def latest(self) -> Any:
        """The last time at which something of the data is left: the horizon, unless it vanishes."""
        return self.horizon

    def fall(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return beta e^{-B/2} / 2, the rate at which the scale e^{-B/2} falls."""
        return self.rate(t) * jnp.exp(-self.integral(t) / 2) / 2

    @abc.abstractmethod
    def rate(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return beta(t), per unit of time."""

    @abc.abstractmethod
    def integral(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return B(t), the integral of beta from 0 to t, without loss of digits as t -> 0."""


class LinearSchedule(NoiseSchedule):
    """Linear noise schedule, beta = beta_min + (beta_max - beta_min) t / T.

    Its integral is B = beta_min t + (beta_max - beta_min) t^2 / (2 T).

    Args:
        beta_min: rate at t = 0, per unit of time.
        beta_max: rate at t = horizon, per unit of time.
        horizon: T, in the process's unit of time.

    Raises:
        ValueError: an argument is not positive.

    Source: Song et al. 2021.
    """

    beta_min: float = eqx.field(converter=as_float)
    beta_max: float = eqx.field(converter=as_float)
    horizon: float = eqx.field(default=1.0, converter=as_float)

    def __check_init__(self):
        arguments = {"beta_min": self.beta_min, "beta_max": self.beta_max, "horizon": self.horizon}
        check_all_positive("LinearSchedule", **arguments)

    @property
    def end(self) -> Any:
        """The forward time at which sampling ends unless it is told: of a std of 0.01."""
        return end_of_rate(self.horizon, self.beta_min)

    @at_the_door
    def rate(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return beta(t) = beta_min + (beta_max - beta_min) t / T, per unit of time."""
        return self.beta_min + (self.beta_max - self.beta_min) * times(t) / self.horizon

    @at_the_door
    def integral(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return B(t) = beta_min t + (beta_max - beta_min) t^2 / (2 T)."""
        t = times(t)
        return self.beta_min * t + (self.beta_max - self.beta_min) * t**2 / (2 * self.horizon)


class CosineSchedule(NoiseSchedule):
    """Cosine noise schedule, e^{-B} = cos^2 u(t) / cos^2 u(0), in continuous time.

    The angle is u(t) = (t / T + o) / (1 + o) pi / 2 and the rate beta = pi tan(u) / (T (1 + o)). It
    would be infinite at T, so it stays at its largest value from the time where that is reached,
    and B grows linearly from there: they stay exactly each other's integral and derivative.

    Args:
        offset: o, which keeps the rate away from zero at t = 0.
        beta_max: largest rate, in units of 1 / horizon; 999 is that of the paper, which clips a
            step of a thousandth of T at 0.999.
        horizon: T, in the process's unit of time.

    Raises:
        ValueError: an argument is not positive, or beta_max is below the rate at t = 0.

    Source: Nichol and Dhariwal 2021, equation 17.
    """

    offset: float = eqx.field(default=0.008, converter=as_float)
    beta_max: float = eqx.field(default=999.0, converter=as_float)
    horizon: float = eqx.field(default=1.0, converter=as_float)

    def __check_init__(self):
        arguments = {"offset": self.offset, "beta_max": self.beta_max, "horizon": self.horizon}
        concrete = check_all_positive("CosineSchedule", **arguments)
        # At t = 0 the rate is pi tan(u) / (1 + o): by math, which decides under jit too.
        start = math.pi * math.tan(self._start_angle()) / (1 + self.offset) if concrete else 0.0
        if concrete and self.beta_max <= start:
            raise refuse(
                "CosineSchedule.beta_max",
                self.beta_max,
                "it must exceed the rate at t = 0",
                "give a larger one, such as 999",
            )

    def _start_angle(self):
        return self.offset / (1 + self.offset) * math.pi / 2

    def _clip_angle(self):
        return jnp.arctan(self.beta_max * (1 + self.offset) / math.pi)

    def _speed(self):
        return math.pi / (2 * self.horizon * (1 + self.offset))

    def _clip_time(self):
        return (self._clip_angle() - self._start_angle()) / self._speed()

    @at_the_door
    def rate(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return beta(t) = pi tan(u(t)) / (T (1 + o)), at most beta_max / T."""
        turned = self._speed() * jnp.minimum(times(t), self._clip_time())
        return 2 * self._speed() * jnp.tan(self._start_angle() + turned)

    @at_the_door
    def integral(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return B(t) = -2 log(cos u(t) / cos u(0)), linear where the rate is clipped."""
        t = times(t)
        turned = self._speed() * jnp.minimum(t, self._clip_time())
        start = self._start_angle()
        # cos(start + turned) / cos(start) - 1, exact for small angles; the other form is exact
        # where the cosine is small.
        early = -2 * jnp.sin(turned / 2) ** 2 - jnp.tan(start) * jnp.sin(turned)
        late = jnp.sin(math.pi / 2 - start - turned) / jnp.cos(start)
        cosine = jnp.where(turned < math.pi / 4, jnp.log1p(early), jnp.log(late))
        beyond = jnp.maximum(t - self._clip_time(), 0.0)
        return -2 * cosine + self.beta_max / self.horizon * beyond


def schedule_of(
    owner: object, usual: tuple[float, float], schedule: NoiseSchedule | None, **given: float | None
) -> NoiseSchedule:
    """Return the schedule that a process was given, or the linear one of its rates and horizon.

    Args:
        owner: the process, for the words of an error.
        usual: its beta_min and beta_max where none is given.
        schedule: any, in place of the linear one.
        **given: beta_min, beta_max and horizon, None where they were not given.

    Raises:
        ValueError: a number is not positive or given beside a schedule, or a schedule is no
            `NoiseSchedule` or given as a number.
    """
    numbers = {name: value for name, value in given.items() if value is not None}
    for name, value in numbers.items():
        if isinstance(value, NoiseSchedule):
            rule = "it is a schedule, not a number"
            raise refuse(name, type(value).__name__, rule, "pass it as schedule=")
    if not isinstance(schedule, NoiseSchedule | None):
        repair = "make one, for instance by TabulatedSchedule(betas)"
        raise refuse("schedule", type(schedule).__name__, "it must be a NoiseSchedule", repair)
    if schedule is None:
        values = {"beta_min": usual[0], "beta_max": usual[1], "horizon": 1.0, **numbers}
        check_all_positive(type(owner).__name__, **values)
        return LinearSchedule(**values)
    for name, value in numbers.items():
        raise refuse(name, value, "the schedule says it", "leave it out, or the schedule")
    return schedule


class ScheduledProcess(LinearProcess):
    """What the processes that run on a noise schedule share: b = sign beta / 2, a = e^{sign B / 2}.

    Each documents its arguments: its rates differ.
    """

    schedule: NoiseSchedule
    sign: ClassVar[int]
    may_vanish: ClassVar[bool] = False

    def __check_init__(self):
        if self.may_vanish and self.schedule.vanishes:
            return
        end = jnp.asarray(self.horizon, float)
        total = self.schedule.integral(end)
        if self.sign < 0 and not isinstance(total, Tracer) and not math.isfinite(total):
            rule = "its B at the horizon is infinite, which leaves nothing of the data (zero SNR)"
            repair = "let B end at a finite value, or take VP with a table whose last beta is 1"
            name = f"{type(self).__name__}.schedule"
            raise refuse(name, type(self.schedule).__name__, rule, repair)
        sizes = self.marginal(end).std ** 2, self.diffusion(end) ** 2
        check_finite_growth(type(self).__name__, *sizes)

    @property
    def horizon(self) -> Any:  # a float, or a tracer where the process is an argument of jit
        """T, in the process's unit of time."""
        return self.schedule.horizon

    @property
    def end(self) -> Any:
        """The forward time at which sampling ends unless it is told; the schedule's."""
        return self.schedule.end

    @property
    def latest(self) -> Any:
        """The last time at which the score tells of the data; the schedule's."""
        return self.schedule.latest

    @classmethod
    def cosine(cls, offset: float = 0.008, *, beta_max: float = 999.0, horizon: float = 1.0):
        """Return the process on the cosine schedule of Nichol and Dhariwal (2021, eq. 17).

        Args:
            offset: o, which keeps the rate away from zero at t = 0.
            beta_max: largest rate, in units of 1 / horizon. A contractive process grows like
                exp(B / 2) or exp(B) and wants a small one.
            horizon: T, in the process's unit of time.

        Raises:
            ValueError: an argument is not positive, beta_max is below the rate at t = 0, or the
                growth to the horizon overflows.
        """
        return cls(schedule=CosineSchedule(offset, beta_max, horizon))  # pyright: ignore[reportCallIssue]

    @at_the_door
    def contraction_rate(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return b(t) = beta(t) / 2 with the sign of the drift."""
        return self.sign * self.schedule.rate(jnp.asarray(t)) / 2

    def prior_std(self) -> Float[Array, ""]:
        """Return 1 where the signal decays, and the std at the horizon where it grows."""
        return jnp.ones(()) if self.sign < 0 else super().prior_std()

    def _log_growth(self, t: Float[Array, "*t"]) -> Float[Array, "*t"]:
        """Return 2 log a."""
        return self.sign * self.schedule.integral(jnp.asarray(t))

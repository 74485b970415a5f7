"""The Mallows-phi link as it is defined, in decimal arithmetic: slow, and right to 50 digits."""

from decimal import Decimal, getcontext

getcontext().prec = 100  # of which s = 1e-20 and phi near 1 cost up to 50


def link(s: Decimal, phi: Decimal) -> Decimal:
    """g(s), for s >= 0 (at 0 the limit from the right); 1 - g(-s) below."""
    if s < 0:
        return rest(-s, phi)
    if phi == 1:
        return Decimal("0.5")
    if s == 0:
        return 1 / (1 - phi) + 1 / phi.ln()
    return (s + 1) / (1 - phi ** (s + 1)) - s / (1 - phi**s)


def rest(s: Decimal, phi: Decimal) -> Decimal:
    """1 - g(s) for s >= 0, by its own formula: nothing is subtracted from one."""
    if phi == 1:
        return Decimal("0.5")
    if s == 0:
        return 1 - link(s, phi)
    return s * phi**s / (1 - phi**s) - (s + 1) * phi ** (s + 1) / (1 - phi ** (s + 1))


def log_link(s, phi) -> float:
    """log g(s) of floats taken exactly."""
    return float(link(Decimal(float(s)), Decimal(float(phi))).ln())


def slopes(s, phi) -> tuple[float, float]:
    """Derivatives of log g in s and in phi, from the right at s = 0, by differences of 1e-25."""
    s, phi = Decimal(float(s)), Decimal(float(phi))
    step = Decimal("1e-25")

    def log_g(x, y):
        return link(x, y).ln()

    one_sided = (-3 * log_g(s, phi) + 4 * log_g(s + step, phi) - log_g(s + 2 * step, phi)) / (
        2 * step
    )
    in_s = one_sided if s == 0 else (log_g(s + step, phi) - log_g(s - step, phi)) / (2 * step)
    small = step * phi
    in_phi = (log_g(s, phi + small) - log_g(s, phi - small)) / (2 * small)
    return float(in_s), float(in_phi)

"""The price of a cliquet in Heston's market, from the joint transform of return and variance."""

import dataclasses
import functools
import math

import numpy as np
import tensorflow as tf

from tfhedge import checks
from tfhedge.market.affine import affine_exponents, expected_integrated_variance, to_complex
from tfhedge.market.fourier import heston_price
from tfhedge.numerics import float64

# Functions of the variance are combinations of exponentials, from one that falls to 1/e over all
# variances to one that does over a twelfth of the long-run variance, with so many in each factor e.
_FASTEST_DECAY, _DECAY_DENSITY = 12.0, 2.5
# Nodes of the log-return up to the cap and of its transform, in units of its standard deviation.
_NUM_RETURNS, _MAX_RETURN = 320, 18.0
_NUM_FREQUENCIES, _MAX_FREQUENCY = 300, 45.0
# By how much the sum of the returns may be off.
_TOLERANCE = 1e-5
# Where the transform of the sum of returns ends, in units of one over a period's deviation.
_MAX_ORDER = 70.0


class CliquetPricer:
    r"""Price of a `Cliquet` in a `Heston` market at any time, differentiable in what is observed.

    With $s$ the sum of the capped returns of the periods that have ended, $R'_1, \dots, R'_m$ those
    of the periods to come, the present one first, and $T - t$ the time left,

    $$P = e^{-r(T - t)}\,\mathbb E\Bigl[\bigl(s + \textstyle\sum_j R'_j\bigr)^+\Bigr]
        = \frac{e^{-r(T - t)}}{2\pi i}\int_{\alpha - i\infty}^{\alpha + i\infty}
          \frac{e^{zs}}{z^2}\,\mathbb E\bigl[e^{z\sum_j R'_j}\bigr]\,dz.$$

    - The expectation is computed backwards from reset date to reset date: with $v$ and $v'$ the
      variances at the ends of a period, $\Phi_0 = 1$ and
      $\Phi_j(z, v) = \mathbb E[e^{zR'}\,\Phi_{j - 1}(z, v')\,|\,v]$.
    - Functions of $v'$ are written as $\sum_k c_k e^{-\lambda_k v'}$. For each term the log-return
      $y$ of a period has a density that counts it, the inverse Fourier transform of
      $\mathbb E[e^{iay - \lambda_k v'}\,|\,v]$, which `affine_exponents` has in closed form. The
      return is $e^y - 1$ up to the cap, and the cap with what is left of the mass.
    - That all periods are capped is the only event with a probability of its own. It is left out of
      the integral, which then converges as $|z|^{-3}$, and added at the end.
    - Within the last period, the price is that of two calls.

    Where the variance is all but zero, in a market with $2\kappa\theta / \xi^2$ as low as 0.04, the
    price has four decimals only.

    Args:
        market: A `Heston` market.
        claim: A `Cliquet`.
        dt: Length of a time step in years.

    Raises:
        ValueError: If `dt` is not positive.

    Example:
    >>> from tfhedge.hedging.claims import Cliquet
    >>> from tfhedge.market.heston import Heston
    >>> pricer = CliquetPricer(Heston.from_paper(), Cliquet.from_paper(), dt=1 / 250)
    >>> pricer(0, [1.0], [0.0625], spot_at_last_reset=[1.0], accrued=[0.0]).numpy().round(6)
    array([0.006236])
    """

    def __init__(self, market, claim, dt):
        self.market = market
        self.claim = claim
        self.dt = checks.positive("dt", dt)
        slowest, fastest = 1.0 / market.largest_variance, _FASTEST_DECAY / market.theta
        num_decays = 1 + math.ceil(_DECAY_DENSITY * math.log(fastest / slowest))
        self.decays = np.append(0.0, np.geomspace(slowest, fastest, num_decays))
        num_nodes = 2 * len(self.decays)
        angles = np.pi * (np.arange(num_nodes) + 0.5) / num_nodes
        nodes = market.largest_variance * (0.5 - 0.5 * np.cos(angles)) ** 2
        fit = np.linalg.pinv(np.exp(-np.outer(nodes, self.decays)), rcond=1e-11)

        period = claim.period * dt
        deviation, num_periods = math.sqrt(market.theta * period), claim.num_periods
        start = max(3.6 / (num_periods * claim.cap), 1.0 / (deviation * math.sqrt(num_periods)))
        spacing = start / 5.0  # an error of exp(-2 pi start / spacing)
        heights = spacing * np.arange(math.ceil(_MAX_ORDER / deviation / spacing))
        self.orders = start + 1j * heights
        self.weights = np.where(heights == 0.0, 0.5, 1.0) * spacing / (np.pi * self.orders**2)

        # By number of whole periods to come: the coefficients of Phi, and those of the probability
        # that all are capped.
        ones = np.ones_like(nodes)
        kernel, capped = (x.numpy() for x in self._kernels(claim.period, ones, nodes))
        self.transforms = [np.outer(np.ones_like(self.orders), self.decays == 0.0)]
        self.atoms = [np.where(self.decays == 0.0, 1.0, 0.0)]
        for _ in range(num_periods - 1):
            values = np.einsum("vzk,zk->zv", kernel, self.transforms[-1])
            self.transforms.append(values @ fit.T)
            self.atoms.append(fit @ (capped @ self.atoms[-1]))

    def __call__(self, step, spot, variance, spot_at_last_reset, accrued):
        """The price, as a share of the notional.

        Args:
            step: Time in steps, an integer below that of the maturity.
            spot: Price of the underlying then, `[n]`.
            variance: Its instantaneous annual variance, `[n]`, up to the market's
                `largest_variance`.
            spot_at_last_reset: Its price at the last reset date, which may be this one, `[n]`.
            accrued: Sum of the capped returns of the periods that have ended, `[n]`.

        Returns:
            float64 tensor `[n]`. It takes about 4 MB for each of its elements.

        Raises:
            ValueError: If the shapes are others, the step is out of its range, or, outside of a
                graph, an observation is.
        """
        checks.integer("step", step, 0, self.claim.num_steps - 1)
        periods_gone, steps_gone = divmod(step, self.claim.period)
        if tf.executing_eagerly():
            most, largest = periods_gone * self.claim.cap, self.market.largest_variance
            for name, x in {"spot": spot, "spot_at_last_reset": spot_at_last_reset}.items():
                checks.positive_elements(name, x)
            in_range = f"numbers from 0 to {largest:.4g}, the largest variance that is tabulated"
            checks.elements("variance", variance, lambda x: (x >= 0) & (x <= largest), in_range)
            at_most = f"at most {most:.4g}, the caps of the periods that have ended"
            checks.elements("accrued", accrued, lambda x: x <= most + _TOLERANCE, at_most)
        whole_periods = self.claim.num_periods - 1 - periods_gone
        steps_left = self.claim.period - steps_gone
        spot, variance, reset, accrued = map(float64, (spot, variance, spot_at_last_reset, accrued))
        checks.shape("spot", spot, ["n"])
        others = {"variance": variance, "spot_at_last_reset": reset, "accrued": accrued}
        for name, x in others.items():
            checks.shape(name, x, spot.shape)
        moneyness = spot / reset
        if whole_periods == 0:
            return self._last_period(steps_left, moneyness, variance, accrued)
        return self._before(whole_periods, steps_left, moneyness, variance, accrued)

    def tables(self, steps_left, moneyness, variance, headroom):
        """Prices before the last period on grids of states.

        Args:
            steps_left: Number of steps to the end of the present period.
            moneyness: Spot over that at the last reset, float64 `[a]`.
            variance: Annual variance, float64 `[b]`.
            headroom: The most that the claim can still pay, float64 `[c]`.

        Returns:
            A list with float64 NumPy arrays `[a, b, c]`, for one whole period to come after the
            present one, two, and so on.
        """
        steps_left, variance = (tf.constant(x, tf.float64) for x in (steps_left, variance))
        rows = [
            self._compiled_prices(steps_left, tf.fill(variance.shape, x), variance, headroom)
            for x in tf.constant(moneyness, tf.float64)
        ]
        return [np.stack(table) for table in zip(*rows, strict=True)]

    @functools.cached_property
    def _compiled_prices(self):
        return tf.function(self._prices, autograph=False, jit_compile=True)

    def _prices(self, steps_left, moneyness, variance, headroom):
        """As `tables`, at states `[n]` and headrooms `[k]`, each `[n, k]`."""
        kernels = self._kernels(steps_left, moneyness, variance)
        return [
            self._integral(kernels, whole_periods, steps_left, headroom[tf.newaxis])
            for whole_periods in range(1, self.claim.num_periods)
        ]

    def _last_period(self, steps_left, moneyness, variance, accrued):
        """A call struck where the sum is zero, less the call struck at the cap."""
        tau, cap = steps_left * self.dt, 1.0 + self.claim.cap
        floor = tf.clip_by_value(1.0 - accrued, 1e-8, cap)
        strikes = tf.stack([floor, tf.fill(tf.shape(floor), tf.constant(cap, floor.dtype))])
        now = dataclasses.asdict(self.market) | {"spot": moneyness, "v0": variance}
        call, capped = tf.unstack(heston_price(strikes, tau, True, **now))
        return call - capped + tf.nn.relu(accrued - 1.0) * math.exp(-self.market.rate * tau)

    def _before(self, whole_periods, steps_left, moneyness, variance, accrued):
        """By the integral."""
        headroom = accrued + (whole_periods + 1) * self.claim.cap
        kernels = self._kernels(steps_left, moneyness, variance)
        return self._integral(kernels, whole_periods, steps_left, headroom[:, tf.newaxis])[:, 0]

    def _integral(self, kernels, whole_periods, steps_left, headroom):
        """The price at states `[n]` and headrooms `[n, k]` or `[1, k]`, as `[n, k]`."""
        kernel, capped = kernels
        transform = tf.einsum("nzk,zk->nz", kernel, self.transforms[whole_periods])
        probability = tf.linalg.matvec(capped, self.atoms[whole_periods])[:, tf.newaxis]
        most = (whole_periods + 1) * self.claim.cap
        transform = transform * np.exp(-most * self.orders) - to_complex(probability)
        growth = tf.exp(to_complex(headroom)[..., tf.newaxis] * self.orders)
        integral = tf.math.real(growth @ (transform * self.weights)[..., tf.newaxis])[..., 0]
        price = integral + probability * tf.nn.relu(headroom)
        tau = tf.cast((whole_periods * self.claim.period + steps_left) * self.dt, price.dtype)
        return price * tf.exp(-self.market.rate * tau)

    def _kernels(self, num_steps, moneyness, variance):
        """The expectations of exp(z R' - lambda v') and of 1{R' = cap} exp(-lambda v').

        Args:
            num_steps: Number of steps to the end of the period.
            moneyness: Spot over that at the last reset, float64 `[n]`.
            variance: Annual variance, float64 `[n]`.

        Returns:
            For each order z and decay lambda `[n, num_orders, num_decays]`, complex; and
            `[n, num_decays]`.
        """
        market, cap = self.market, self.claim.cap
        dynamics = [
            tf.convert_to_tensor(x, tf.float64)
            for x in (num_steps * self.dt, market.kappa, market.theta, market.xi, market.rho)
        ]
        moneyness, variance = (tf.convert_to_tensor(x) for x in (moneyness, variance))
        tau, kappa, theta, *_ = dynamics
        drift = (market.rate - market.dividend_yield) * tau
        mean = expected_integrated_variance(variance, tau, kappa, theta)
        deviation = tf.sqrt(tf.stop_gradient(mean))
        # The density of the log-return over its forward, times exp(-lambda v').
        spacing = _MAX_FREQUENCY / _NUM_FREQUENCIES / deviation[:, tf.newaxis]
        a = spacing * (np.arange(_NUM_FREQUENCIES) + 0.5)
        A, B = affine_exponents(1j * to_complex(a)[..., tf.newaxis], *dynamics, self.decays)
        moments = tf.exp(A + B * to_complex(variance)[:, tf.newaxis, tf.newaxis])
        log_cap = tf.math.log((1.0 + cap) / moneyness) - drift
        width = _MAX_RETURN * deviation
        highest = tf.clip_by_value(log_cap, -width, width)
        nodes, weights = _gauss_legendre(_NUM_RETURNS)
        half = 0.5 * (highest + width)[:, tf.newaxis]
        y = half * (nodes + 1.0) - width[:, tf.newaxis]
        turn = -1j * to_complex(y * spacing)
        waves = _powers(0.5 * turn, turn, _NUM_FREQUENCIES)
        density = tf.math.real(waves) @ tf.math.real(moments)
        density -= tf.math.imag(waves) @ tf.math.imag(moments)
        mass = density * (half * weights * spacing / math.pi)[..., tf.newaxis]
        total = tf.exp(
            tf.math.real(sum_of_exponents(affine_exponents(0.0, *dynamics, self.decays), variance))
        )
        capped = total - tf.reduce_sum(mass, axis=1)
        returns = moneyness[:, tf.newaxis] * tf.exp(y + drift) - 1.0
        start, step = (x * to_complex(returns) for x in (self.orders[0], np.diff(self.orders)[0]))
        growth = _powers(start, step, len(self.orders))
        parts = tf.math.real(growth), tf.math.imag(growth)
        moved = tf.complex(*(tf.matmul(part, mass, transpose_a=True) for part in parts))
        at_cap = np.exp(cap * self.orders)[:, np.newaxis] * to_complex(capped)[:, tf.newaxis]
        return moved + at_cap, capped


@functools.cache
def _gauss_legendre(num_nodes):
    """Nodes and weights on [-1, 1], from the eigenvalues of a matrix of that size."""
    return np.polynomial.legendre.leggauss(num_nodes)


def _powers(start, step, number):
    """exp(start + k step) for k = 0, ..., number - 1 along a new axis, from few exponentials."""
    block = math.isqrt(number - 1) + 1
    start, step = start[..., tf.newaxis], step[..., tf.newaxis]
    few = tf.exp(start + step * (block * np.arange(math.ceil(number / block))))
    many = few[..., tf.newaxis] * tf.exp(step * np.arange(block))[..., tf.newaxis, :]
    return tf.reshape(many, [*step.shape[:-1], -1])[..., :number]


def sum_of_exponents(exponents, variance):
    """A + B v, `[n, size]`, of exponents `[size]` and variances `[n]`."""
    A, B = exponents
    return A + B * to_complex(variance)[:, tf.newaxis]

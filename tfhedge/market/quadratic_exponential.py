"""Andersen's quadratic-exponential scheme with the martingale correction, QE-M."""

import math

import tensorflow as tf

from tfhedge.market.random_numbers import normal, tail_and_sign

# Andersen's psi_c, where the scheme changes from the quadratic to the exponential law.
_PSI_SWITCH = 1.5


class QuadraticExponentialScheme:
    r"""Andersen's QE scheme with the martingale correction (QE-M).

    Given $v = v_t$, the exact conditional mean and variance of $v' = v_{t+\Delta}$ are (eq. 17, 18)

    $$m = \theta + (v - \theta)e^{-\kappa\Delta}, \qquad
      s^2 = \frac{v\xi^2e^{-\kappa\Delta}}{\kappa}(1 - e^{-\kappa\Delta})
          + \frac{\theta\xi^2}{2\kappa}(1 - e^{-\kappa\Delta})^2, \qquad \psi = s^2/m^2.$$

    A law with these two moments is drawn:

    - $\psi \le \tfrac32$ (eq. 23, 27, 28): $v' = a(b + Z)^2$ with $a(1 + b^2) = m$. With
      $h = \psi/2$ and $r = \sqrt{1 - h}$ the solution reads $ab^2 = mr$, $a = mh/(1 + r)$, so
      $v' - m = 2Z\sqrt{mra} + a(Z^2 - 1)$.
    - $\psi > \tfrac32$ (eq. 25, 29, 30): $v' = 0$ with probability $p = (\psi - 1)/(\psi + 1)$,
      else exponential with mean $\mu = m(\psi + 1)/2$, so
      $v' = \mu\,\bigl(\mathcal E - \log\tfrac{\psi + 1}2\bigr)^+$ with $\mathcal E$ a standard
      exponential number.

    The log-spot then moves by $K_0^* + K_1v + K_2v' + \sqrt{K_3v + K_4v'}\,Z'$ (eq. 33,
    $\gamma_1 = \gamma_2 = \tfrac12$). With $K_0^*$ from proposition 9 this is

    $$\log\frac{x'}x = Av' - \log\mathbb E[e^{Av'} \mid v] + \sigma Z' - \tfrac12\sigma^2, \qquad
      A = \frac\rho\xi\Bigl(1 + \frac{\kappa\Delta}2\Bigr) - \frac{\rho^2\Delta}4, \quad
      \sigma^2 = (1 - \rho^2)\,\frac{v + v'}2\,\Delta,$$

    two factors of conditional mean 1, which makes $x$ a martingale. The moment is

    $$\log\mathbb E[e^{Av'} \mid v] = \begin{cases}
        \dfrac{Amr}{1 - 2Aa} - \tfrac12\log(1 - 2Aa) & \psi \le \tfrac32 \\[2ex]
        \log\Bigl(1 + \dfrac{Am}{1 - A\mu}\Bigr) & \psi > \tfrac32. \end{cases}$$

    It always exists if $\rho \le 0$. If $\rho > 0$ and the step is so long that $e^{Av'}$ loses its
    variance ($4Aa \ge 1$ or $2A\mu \ge 1$), the correction is left out for that path and step
    ($K_0$ in place of $K_0^*$), and $x$ is a martingale only up to the error of the scheme.

    Args:
        market: the `Heston` market.
        dt: length $\Delta$ of a time step in years.

    Reference: Andersen, Simple and efficient simulation of the Heston stochastic volatility model,
    Journal of Computational Finance 11(3) (2008); equation numbers are those of the 2007 preprint.
    """

    num_fields = 2

    def __init__(self, market, dt):
        kappa, theta, xi, rho = market.kappa, market.theta, market.xi, market.rho
        decay, decayed = math.exp(-kappa * dt), -math.expm1(-kappa * dt)
        self._decay = decay
        # Floored so that m^2 > 0 in float32 as well: XLA turns x / m / m into x / m^2.
        self._mean_at_zero = max(theta * decayed, 1e-18)
        self._square_at_zero = 0.5 * theta * xi**2 / kappa * decayed**2
        self._square_slope = xi**2 / kappa * decay * decayed
        weight = rho / xi * (1.0 + 0.5 * kappa * dt) - 0.25 * rho**2 * dt
        self._weight = weight  # A
        self._half_independent = 0.5 * (1.0 - rho**2) * dt
        # Without the correction, -K0 - (K1 + K3 / 2) v stands in for the log-moment; here less A m.
        self._uncorrected_at_zero = rho / xi * kappa * theta * dt - weight * self._mean_at_zero
        slope = rho / xi * (1.0 - 0.5 * kappa * dt) + 0.25 * rho**2 * dt
        self._uncorrected_slope = slope - weight * decay

    def noise(self, bits):
        """A normal number for each step of the variance, and an exponential one that rises with it.

        Args:
            bits: int32 tensor of random bits, `[num_fields, num_steps, num_paths]`.

        Returns:
            Tuple of float32 tensors `[num_steps, num_paths]`.
        """
        # One random number serves both laws, of which each step uses one.
        tail, sign = tail_and_sign(bits[0])
        return normal(bits[0]), -tf.math.log(tf.where(sign > 0.0, tail, 1.0 - tail))

    def _laws(self, variance):
        mean = self._mean_at_zero + self._decay * variance
        dispersion = (self._square_at_zero + self._square_slope * variance) / mean  # s^2 / m
        psi = dispersion / mean
        # psi is capped so that the root is real where the quadratic law is not used.
        half = 0.5 * tf.minimum(psi, _PSI_SWITCH)
        root = tf.sqrt(1.0 - half)
        scale = mean * half / (1.0 + root)  # a
        centre = mean * root  # a b^2
        tail = 0.5 * (mean + dispersion)  # mu
        return mean, psi, scale, centre, tail

    # Both v' and the log-moment are computed as differences from what they are to first order, m
    # and A m: A is large if xi is small, and A v' and the log-moment would cancel each other.
    def next_variance(self, variance, noise):
        """The variance after a step, and its surprise: the difference to its mean."""
        number, exponential = noise
        mean, psi, scale, centre, tail = self._laws(variance)
        quadratic = 2.0 * number * tf.sqrt(centre * scale) + scale * (number**2 - 1.0)
        exceedance = tf.nn.relu(exponential - tf.math.log(0.5 * (psi + 1.0)))
        surprise = tf.where(psi <= _PSI_SWITCH, quadratic, tail * exceedance - mean)
        return tf.nn.relu(mean + surprise), surprise

    def log_return(self, variance, next_variance, surprise, bits):
        """The log-return of the driftless spot over a step, given the variance at its ends."""
        weight = self._weight
        mean, psi, scale, centre, tail = self._laws(variance)
        is_quadratic = psi <= _PSI_SWITCH
        # The log-moment less A m. The caps bind only where the correction is left out.
        ratio = tf.minimum(2.0 * weight * scale, 0.5)
        quadratic = weight * centre * ratio / (1.0 - ratio) - 0.5 * (ratio + tf.math.log1p(-ratio))
        tail_ratio = tf.minimum(weight * tail, 0.5)
        tailed = tf.math.log1p(weight * mean / (1.0 - tail_ratio)) - weight * mean
        compensator = tf.where(is_quadratic, quadratic, tailed)
        if weight > 0:
            corrected = tf.where(is_quadratic, ratio, tail_ratio) < 0.5
            uncorrected = self._uncorrected_at_zero + self._uncorrected_slope * variance
            compensator = tf.where(corrected, compensator, uncorrected)
        square = self._half_independent * (variance + next_variance)  # sigma^2
        noise = tf.sqrt(square) * normal(bits[1])
        return weight * surprise - compensator + noise - 0.5 * square

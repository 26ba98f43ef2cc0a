"""Paths of the Heston market: Andersen's quadratic-exponential scheme."""

import math

import tensorflow as tf

from tfhedge.checks import positive, positive_integer

# Paths are drawn in blocks of this many, each with a seed of its own.
_BLOCK = 128
# Andersen's psi_c, where the scheme changes from the quadratic to the exponential law.
_PSI_SWITCH = 1.5


def simulate(market, num_paths, num_steps, dt, seed, first_path=0):
    r"""Simulates spot and variance with the martingale-corrected QE scheme (QE-M).

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

    Path $i$ depends on `seed`, `num_steps` and $i$, and not on the batch in which it is drawn.

    Args:
        market: the `Heston` market.
        num_paths: number of paths, a Python int.
        num_steps: number of time steps, a Python int.
        dt: length $\Delta$ of a time step in years.
        seed: integer tensor or pair, shape `[2]`.
        first_path: index of the first path, an integer or integer tensor.

    Returns:
        Tuple `(spot, variance)` of float32 tensors, `[num_paths, num_steps + 1]`.

    Raises:
        ValueError: if `num_paths` or `num_steps` is no positive integer, or `dt` not positive.

    Reference: Andersen, Simple and efficient simulation of the Heston stochastic volatility model,
    Journal of Computational Finance 11(3) (2008); equation numbers are those of the 2007 preprint.

    >>> from tfhedge.market.heston import Heston
    >>> market = Heston.from_paper()
    >>> spot, variance = simulate(market, num_paths=4, num_steps=240, dt=1 / 250, seed=(1, 2))
    >>> spot.shape, variance.shape
    (TensorShape([4, 241]), TensorShape([4, 241]))
    >>> tail, _ = simulate(market, 1, 240, 1 / 250, seed=(1, 2), first_path=3)
    >>> bool(tf.reduce_all(tail[0] == spot[3]))
    True
    """
    num_paths = positive_integer("num_paths", num_paths)
    num_steps = positive_integer("num_steps", num_steps)
    dt = positive("dt", dt)
    # One integer type, since `fold_in` gives other numbers for an index of another type.
    seed, first_path = tf.cast(seed, tf.int64), tf.cast(first_path, tf.int64)
    return _simulate(market, num_paths, num_steps, dt, seed, first_path)


# A graph even if called eagerly: TensorFlow's optimizer reorders sums, which would set the last bit
# of an eager path apart from that of the same path in a graph.
@tf.function(autograph=False)
def _simulate(market, num_paths, num_steps, dt, seed, first_path):
    # A batch that starts anywhere inside a block touches at most this many blocks. They are
    # simulated whole: a path's arithmetic then does not depend on the place where it is cut off.
    num_blocks = (num_paths - 2) // _BLOCK + 2
    blocks = first_path // _BLOCK + tf.range(num_blocks, dtype=first_path.dtype)
    offset = first_path % _BLOCK

    noise = _noise(blocks, num_steps, seed)
    log_start = tf.zeros([num_blocks * _BLOCK])
    start = tf.fill([num_blocks * _BLOCK], tf.constant(market.v0, tf.float32))
    step = _quadratic_exponential_step(market, dt)
    log_spot, variance = tf.scan(step, noise, initializer=(log_start, start))

    def paths(initial, values):
        values = tf.concat([initial[tf.newaxis], values], axis=0)
        values = tf.transpose(values[:, offset : offset + num_paths])
        return tf.ensure_shape(values, [num_paths, num_steps + 1])

    spot = market.spot * tf.exp(log_spot)
    return paths(market.spot * tf.ones_like(log_start), spot), paths(start, variance)


def _noise(blocks, num_steps, seed):
    """Numbers Z, Z' (normal) and E (exponential) of the blocks, each `[num_steps, num_paths]`."""

    def draw(block):
        keys = tf.random.split(tf.random.fold_in(seed, block), 2)
        normal = tf.random.stateless_normal([2, num_steps, _BLOCK], keys[0])
        uniform = tf.random.stateless_uniform([1, num_steps, _BLOCK], keys[1])
        return tf.concat([normal, -tf.math.log1p(-uniform)], axis=0)

    noise = tf.map_fn(draw, blocks, fn_output_signature=tf.float32)
    noise = tf.transpose(noise, [1, 2, 0, 3])
    return tuple(tf.unstack(tf.reshape(noise, [3, num_steps, -1])))


def _quadratic_exponential_step(market, dt):
    """Returns the function `(log_spot, variance), noise -> (log_spot, variance)` of one step."""
    kappa, theta, xi, rho = market.kappa, market.theta, market.xi, market.rho
    decay, decayed = math.exp(-kappa * dt), -math.expm1(-kappa * dt)
    # Floored so that m > 0 holds in float32 as well, whatever the parameters.
    mean_at_zero = max(theta * decayed, 1e-30)
    square_at_zero = 0.5 * theta * xi**2 / kappa * decayed**2
    square_slope = xi**2 / kappa * decay * decayed
    weight = rho / xi * (1.0 + 0.5 * kappa * dt) - 0.25 * rho**2 * dt  # A
    half_independent = 0.5 * (1.0 - rho**2) * dt
    # Without the correction, -K0 - (K1 + K3 / 2) v stands in for the log-moment; here less A m.
    uncorrected_at_zero = rho / xi * kappa * theta * dt - weight * mean_at_zero
    uncorrected_slope = rho / xi * (1.0 - 0.5 * kappa * dt) + 0.25 * rho**2 * dt - weight * decay

    # Both v' and the log-moment are computed as differences from what they are to first order, m
    # and A m: A is large if xi is small, and A v' and the log-moment would cancel each other.
    def step(state, noise):
        log_spot, variance = state
        normal, spot_normal, exponential = noise
        mean = mean_at_zero + decay * variance
        dispersion = (square_at_zero + square_slope * variance) / mean  # s^2 / m
        psi = dispersion / mean
        is_quadratic = psi <= _PSI_SWITCH

        # psi is capped so that the root is real where the quadratic law is not used.
        half = 0.5 * tf.minimum(psi, _PSI_SWITCH)
        root = tf.sqrt(1.0 - half)
        scale = mean * half / (1.0 + root)  # a
        centre = mean * root  # a b^2
        quadratic = 2.0 * normal * tf.sqrt(centre * scale) + scale * (normal**2 - 1.0)

        tail = 0.5 * (mean + dispersion)  # mu
        exceedance = tf.nn.relu(exponential - tf.math.log(0.5 * (psi + 1.0)))
        surprise = tf.where(is_quadratic, quadratic, tail * exceedance - mean)  # v' - m

        # The log-moment less A m. The caps bind only where the correction is left out.
        ratio = tf.minimum(2.0 * weight * scale, 0.5)
        quadratic = weight * centre * ratio / (1.0 - ratio) - 0.5 * (ratio + tf.math.log1p(-ratio))
        tail_ratio = tf.minimum(weight * tail, 0.5)
        tailed = tf.math.log1p(weight * mean / (1.0 - tail_ratio)) - weight * mean
        compensator = tf.where(is_quadratic, quadratic, tailed)
        if weight > 0:
            corrected = tf.where(is_quadratic, ratio, tail_ratio) < 0.5
            uncorrected = uncorrected_at_zero + uncorrected_slope * variance
            compensator = tf.where(corrected, compensator, uncorrected)

        next_variance = tf.nn.relu(mean + surprise)
        square = half_independent * (variance + next_variance)  # sigma^2
        log_spot += weight * surprise - compensator + tf.sqrt(square) * spot_normal - 0.5 * square
        return log_spot, next_variance

    return step

r"""The law of a square-root process's integral between two known values.

For $dv_s = \kappa(\theta - v_s)\,ds + \xi\sqrt{v_s}\,dW_s$ let $\nu = 2\kappa\theta/\xi^2 - 1$ and
$k = \kappa\Delta/2$, and choose units that leave these two parameters only:

$$J = \frac2{\xi^2\Delta^2}\int_0^\Delta v_s\,ds, \qquad
  \sigma = \frac2{\xi^2\Delta}(v_0 + v_\Delta), \qquad
  \zeta = \frac4{\xi^2\Delta}\sqrt{v_0v_\Delta}.$$

With $\ell = \sqrt{k^2 + \beta}$ and $\varrho(x) = x/\sinh x$ (Broadie and Kaya 2006, eq. 13)

$$\mathbb E[e^{-\beta J} \mid v_0, v_\Delta] = e^{\sigma(k\coth k - \ell\coth\ell)}\,
  \frac{\varrho(\ell)\,I_\nu(\zeta\varrho(\ell))}{\varrho(k)\,I_\nu(\zeta\varrho(k))}.$$

References:
    - Broadie and Kaya, Exact simulation of stochastic volatility and other affine jump diffusion
      processes (2006).
    - Glasserman and Kim, Gamma expansion of the Heston stochastic volatility model (2011).
"""

import numpy as np
import scipy.special

# Spacing of the nodes on a contour, and the number of points of the grid that brackets quantiles.
_SPACING, _NUM_GRID = 0.08, 50


def log_laplace_transform(beta, sigma, zeta, nu, k):
    r"""$\log\mathbb E[e^{-\beta J} \mid v_0, v_\Delta]$, up to a multiple of $2\pi i$.

    Args:
        beta: complex array, not on the negative real axis.
        sigma: array that broadcasts with `beta`.
        zeta: array that broadcasts with `beta`, in `[0, sigma]`.
        nu: the order $\nu > -1$.
        k: half the speed of mean reversion times the step, $\kappa\Delta/2 > 0$.

    Returns:
        Complex array of the broadcast shape.

    >>> print(f"{log_laplace_transform(1e-6, 2.0, 1.5, 0.0, 0.1).real * -1e6:.4f}")
    0.9809
    """
    ell = np.sqrt(k**2 + np.asarray(beta, complex))
    terms = []
    for x in (ell, np.full_like(ell, k)):
        log_rho = _log_rho(x)
        # rho^nu is taken out of the Bessel function: its logarithm is continuous in this form.
        bessel = _log_bessel(nu, (zeta * np.exp(log_rho)) ** 2)
        terms.append((nu + 1.0) * log_rho + bessel - sigma * x / np.tanh(x))
    return terms[0] - terms[1]


def approximate_mean(sigma, zeta, nu, k, sqrt=np.sqrt):
    r"""$\mathbb E[J \mid v_0, v_\Delta]$, but for an elementary estimate of the Bessel quotient.

    $$\tfrac{\coth k - \varrho(k)^2/k}{2k}\,\sigma + \tfrac{k\coth k - 1}{2k^2}
      \Bigl(\nu + 1 + \zeta'\frac{I_{\nu+1}(\zeta')}{I_\nu(\zeta')}\Bigr), \qquad
      \zeta' = \zeta\varrho(k), \qquad
      \frac{I_{\nu+1}(x)}{I_\nu(x)} \approx
        \frac x{\nu + \frac12 + \sqrt{x^2 + (\nu + \frac32)^2}}$$

    The estimate (Amos 1974, eq. 9) is precise for a large $\nu$ or $x$ and for $x \to 0$.

    Args:
        sigma: array or tensor.
        zeta: array or tensor of the same kind and shape.
        nu: the order.
        k: half the speed of mean reversion times the step.
        sqrt: square root of such arrays or tensors.

    Returns:
        An array or tensor like `sigma`.
    """
    rho = float(np.exp(_log_rho(k)))
    if k < 0.01:  # Taylor series, since the quotients cancel
        per_sigma, per_copy = 1.0 / 3.0 - 2.0 / 45.0 * k**2, 1.0 / 6.0 - k**2 / 90.0
    else:
        per_sigma = float((1.0 / np.tanh(k) - rho**2 / k) / (2.0 * k))
        per_copy = float((k / np.tanh(k) - 1.0) / (2.0 * k**2))
    square = (zeta * rho) ** 2
    root = sqrt(square + (nu + 1.5) ** 2)
    if nu >= -0.5:
        copies = square / (root + (nu + 0.5))
    else:  # the same without cancellation
        copies = square * (root - (nu + 0.5)) / (square + max(2.0 * (nu + 1.0), 1e-30))
    return per_sigma * sigma + per_copy * (copies + (nu + 1.0))


def log_quantiles(score, sigma, zeta, nu, k):
    r"""Logarithms of quantiles of $J$ given $v_0$ and $v_\Delta$, by Fourier inversion.

    Args:
        score: normal scores $\Phi^{-1}(p)$ of the probabilities, `[m]`, between -6 and 6.
        sigma: array `[n]`, positive.
        zeta: array `[n]`.
        nu: the order.
        k: half the speed of mean reversion times the step.

    Returns:
        float64 array `[n, m]`.

    The median:

    >>> law = np.array([2.0]), np.array([1.5]), 0.0, 0.1
    >>> print(np.exp(log_quantiles(np.array([0.0]), *law)).round(4))
    [[0.9284]]
    """
    values = np.empty((len(sigma), len(score)))
    for tail in (_Tail(-1, sigma, zeta, nu, k), _Tail(1, sigma, zeta, nu, k)):
        chosen = score < 0 if tail.side < 0 else score >= 0
        if np.any(chosen):
            values[:, chosen] = tail.log_quantiles(score[chosen])
    return values


class _Tail:
    """Probabilities below (`side` -1) or above (`side` 1) a point, for `n` laws at once.

    They are integrals along a hyperbola that bends to the left, where exp(beta x) decays. On the
    lower side it passes to the right of the pole at 0; on the upper side to the left of it, and to
    the right of the other singularities, the first of which is at -pi^2 - k^2.
    """

    def __init__(self, side, sigma, zeta, nu, k):
        self.side = side
        sigma, zeta = sigma[:, np.newaxis], zeta[:, np.newaxis]
        self.mean, self.deviation = _moments(sigma, zeta, nu, k)
        self.last_rate = np.pi**2 + k**2
        # Past this frequency the transform is below exp(-38).
        decay = 38.0 / (sigma + nu + 1.0)
        reach = np.maximum(12.0 / self.deviation, 2.0 * decay * (decay + k))
        scale = 1.0 / self.deviation
        if side > 0:
            scale = np.minimum(scale, self.last_rate / 3.0)
        self.num_nodes = np.ceil(np.arcsinh(reach / scale)[:, 0] / _SPACING).astype(int)
        t = (np.arange(np.max(self.num_nodes)) + 0.5) * _SPACING
        self.beta = scale * (-1.5 * side - 0.35 * (np.cosh(t) - 1.0) + 1j * np.sinh(t))
        weight = scale * (-0.35 * np.sinh(t) + 1j * np.cosh(t)) * (_SPACING / np.pi)
        self.exponent = np.log(weight) + log_laplace_transform(self.beta, sigma, zeta, nu, k)

    def score(self, log_x, rows):
        """Normal scores of points `[rows, m]`, and their derivatives."""
        parts = [self._tail(x, row) for x, row in zip(log_x, rows, strict=True)]
        tail, slope = np.moveaxis(parts, 1, 0)
        with np.errstate(all="ignore"):  # far out a tail is rounding error, of either sign
            score = -self.side * scipy.special.ndtri_exp(np.log(np.minimum(tail, 1.0 - 1e-10)))
            return score, slope * np.sqrt(2.0 * np.pi) * np.exp(0.5 * score**2)

    def _tail(self, log_x, row):
        """One law's tails beyond some points, and the derivatives of the lower one by `log_x`."""
        # Imaginary parts of exp(z) and exp(z) / beta, in the real functions that NumPy vectorizes.
        x, nodes = np.exp(log_x), slice(self.num_nodes[row])
        beta, exponent = self.beta[row, nodes], self.exponent[row, nodes]
        angle = np.multiply.outer(beta.imag, x) + exponent.imag[:, np.newaxis]
        length = np.exp(np.multiply.outer(beta.real, x) + exponent.real[:, np.newaxis])
        sine, cosine = length * np.sin(angle), length * np.cos(angle)
        inverse = 1.0 / beta
        return -self.side * (inverse.real @ sine + inverse.imag @ cosine), x * np.sum(sine, axis=0)

    def log_quantiles(self, score):
        """Newton's iteration, kept within brackets."""
        log_x, low, high = self._brackets(score)
        rows = np.arange(len(log_x))
        for _ in range(30):
            before = log_x[rows]
            value, slope = self.score(before, rows)
            low[rows] = np.where(value <= score, before, low[rows])
            high[rows] = np.where(value >= score, before, high[rows])
            with np.errstate(all="ignore"):
                newton = before - (value - score) / slope
            inside = (newton >= low[rows]) & (newton <= high[rows])
            log_x[rows] = np.where(inside, newton, 0.5 * (low[rows] + high[rows]))
            rows = rows[np.max(abs(log_x[rows] - before), axis=1) > 1e-7]
            if not rows.size:
                break
        return log_x

    def _brackets(self, score):
        """Estimates of the quantiles by interpolation on a grid, and the cells they lie in."""
        spread = np.sqrt(np.log1p((self.deviation / self.mean) ** 2))
        middle = np.log(self.mean)
        if self.side < 0:
            ends = middle - 8.0 * spread * (1.0 + 0.35 * spread), middle + spread
        else:
            last = self.mean + 8.0 * self.deviation + 20.0 / self.last_rate
            ends = middle - 5.0 * spread, np.log(last)
        grid = np.linspace(ends[0][:, 0], ends[1][:, 0], _NUM_GRID, axis=1)
        values, _ = self.score(grid, np.arange(len(grid)))
        found = np.empty((3, len(grid), len(score)))
        for row, (points, scores) in enumerate(zip(grid, values, strict=True)):
            with np.errstate(invalid="ignore"):
                rising = np.diff(scores, prepend=-np.inf) > 0
            bad = ~(np.isfinite(scores) & rising & (abs(scores) < 6.5))
            centre = np.argmin(np.where(bad, np.inf, abs(scores)))
            first = np.max(np.flatnonzero(bad[:centre]), initial=-1) + 1
            end = centre + np.min(np.flatnonzero(bad[centre:]), initial=_NUM_GRID - centre)
            points, scores = points[first:end], scores[first:end]
            right = np.clip(np.searchsorted(scores, score), 1, len(scores) - 1)
            found[:, row] = np.interp(score, scores, points), points[right - 1], points[right]
        return found


def _moments(sigma, zeta, nu, k):
    """Mean and standard deviation, from the logarithm's Taylor coefficients; for scaling only."""
    radius = np.minimum(0.5, 4.0 / (sigma + nu + 1.0))
    beta = radius * np.exp(2j * np.pi * (np.arange(16) + 0.5) / 16)
    log_transform = log_laplace_transform(beta, sigma, zeta, nu, k)
    mean = -np.mean(log_transform / beta, axis=1, keepdims=True).real
    variance = 2.0 * np.mean(log_transform / beta**2, axis=1, keepdims=True).real
    return mean, np.sqrt(variance)


def _log_rho(x):
    """log(x / sinh x); continuous for Re x > 0."""
    return np.log(2.0 * x) - x - np.log1p(-np.exp(-2.0 * x))


def _log_bessel(nu, square):
    r"""$\log(w^{-\nu}I_\nu(w))$ as a function of $w^2$, of which it has no branch."""
    # A series near 0, Debye's expansion where nu or w is large, and SciPy between them.
    length = np.sqrt(nu**2 + square)
    is_small = abs(square) < 4.0
    is_large = ~is_small & ((abs(length) > 60.0) | (nu > 60.0))
    if nu > 60.0:
        middle = 0.0
    else:
        w = np.sqrt(np.where(is_small | is_large, 4.0 + nu**2, square))
        middle = np.log(scipy.special.ive(nu, w)) + w.real - nu * np.log(w)
    large = _debye(nu, np.where(is_large, length, 60.0 + abs(nu)))
    small = _power_series(nu, np.where(is_small, square, 0.0))
    return np.where(is_small, small, np.where(is_large, large, middle))


def _power_series(nu, square):
    term = total = np.ones_like(square)
    for j in range(1, 20):
        term = term * square / (4.0 * j * (j + nu))
        total = total + term
    return np.log(total) - nu * np.log(2.0) - scipy.special.gammaln(nu + 1.0)


def _debye(nu, length):
    """DLMF 10.41.3 with four terms; `length` is the root of nu^2 + w^2."""
    p = (nu / length) ** 2
    correction = (
        (3.0 - 5.0 * p) / (24.0 * length)
        + (81.0 - 462.0 * p + 385.0 * p**2) / (1152.0 * length**2)
        + (30375.0 - 369603.0 * p + 765765.0 * p**2 - 425425.0 * p**3) / (414720.0 * length**3)
    )
    logarithms = nu * np.log(nu + length) + 0.5 * np.log(2.0 * np.pi * length)
    return length - logarithms + np.log1p(correction)

"""Functions with finite gradients, Chebyshev interpolation and quadrature."""

import numpy as np
import tensorflow as tf


def symexp(x):
    r"""Symmetric exponential, the inverse of the symmetric logarithm.

    $$\mathrm{symexp}(x) = \mathrm{sign}(x)\,(e^{|x|} - 1)$$

    Odd, and once continuously differentiable: the derivative is $e^{|x|}$ everywhere, at 0 too.

    Args:
        x: float tensor of any shape.

    Returns:
        Tensor with the shape and dtype of `x`.

    Reference: Hafner et al., Mastering diverse domains through world models (2023), eq. 10.

    >>> print(symexp([-1.0, 0.0, 1.0]).numpy())
    [-1.7182817  0.         1.7182817]
    """
    x = tf.convert_to_tensor(x)
    # sign(x) expm1(|x|) has gradient 0 at 0, since sign and abs do; these branches have 1.
    negative = x < 0
    magnitude = tf.math.expm1(tf.where(negative, -x, x))
    return tf.where(negative, -magnitude, magnitude)


def chebyshev_points(num_points):
    r"""Chebyshev points of the first kind, $\cos((j + \tfrac12)\pi/n)$ for $j = 0, \dots, n - 1$.

    Args:
        num_points: their number $n$.

    Returns:
        float64 NumPy array of shape `[num_points]`, descending in (-1, 1).

    >>> chebyshev_points(2).round(4).tolist()
    [0.7071, -0.7071]
    """
    return np.cos((np.arange(num_points) + 0.5) * np.pi / num_points)


def chebyshev_coefficients(values):
    r"""Coefficients of the polynomial that takes given values at the Chebyshev points.

    $$c_k = \frac{2 - \delta_{k0}}n \sum_{j=0}^{n-1} f(x_j) \cos(k (j + \tfrac12)\pi/n), \qquad
      f(x) \approx \sum_{k=0}^{n-1} c_k T_k(x)$$

    Args:
        values: float64 array `[n, ...]`, the function at `chebyshev_points(n)`.

    Returns:
        float64 NumPy array `[n, ...]` of coefficients.

    For example $x^2 = \tfrac12 T_0(x) + \tfrac12 T_2(x)$:

    >>> print(abs(chebyshev_coefficients(chebyshev_points(3) ** 2)).round(12))
    [0.5 0.  0.5]
    """
    values = np.asarray(values, np.float64)
    n = len(values)
    modes = np.arange(n)
    cosines = np.cos(np.outer(modes, modes + 0.5) * np.pi / n)
    cosines[0] /= 2.0
    return 2.0 / n * np.tensordot(cosines, values, axes=1)


def chebyshev_basis(x, degree):
    r"""Chebyshev polynomials $T_0(x), \dots, T_n(x)$ as tensors of the shape of `x`.

    $$T_{k+1}(x) = 2x\,T_k(x) - T_{k-1}(x)$$

    Args:
        x: float tensor with values in [-1, 1].
        degree: the highest degree $n \ge 1$.

    Returns:
        List of `degree + 1` tensors.

    >>> [float(t) for t in chebyshev_basis(tf.constant(0.5), 3)]
    [1.0, 0.5, -0.5, -1.0]
    """
    basis = [tf.ones_like(x), x]
    for _ in range(degree - 1):
        basis.append(2.0 * x * basis[-1] - basis[-2])
    return basis


def chebyshev_sum(coefficients, x):
    r"""$\sum_{k=0}^n c_k\,T_k(x)$ by Clenshaw's recurrence, which needs no basis in memory.

    Args:
        coefficients: list of at least two tensors $c_0, \dots, c_n$ that broadcast with `x`.
        x: float tensor with values in [-1, 1].

    Returns:
        Tensor of the broadcast shape.

    >>> float(chebyshev_sum([1.0, 2.0, 3.0], tf.constant(0.5)))
    0.5
    """
    constant, *others = coefficients
    b, last = others.pop(), 0.0
    for c in reversed(others):
        b, last = c + 2.0 * x * b - last, b
    return constant + x * b - last


def exp_sinh_quadrature(num_points):
    r"""Nodes and weights of the double exponential rule on the half line.

    $$\int_0^\infty f(x)\,dx \approx \sum_j w_j f(x_j), \qquad x_j = e^{\frac\pi2\sinh t_j}, \quad
      w_j = \tfrac\pi2\,h\cosh(t_j)\,x_j$$

    on equidistant $t_j$ with spacing $h$. The nodes lie dense around 1 and reach from 1e-17 to 1e8,
    so that $f$ should change on the scale 1, be bounded near 0 and integrable at infinity.

    Args:
        num_points: number of nodes.

    Returns:
        Tuple of float64 NumPy arrays `(nodes, weights)`, each `[num_points]`.

    Reference: Takahasi and Mori, Double exponential formulas for numerical integration (1974).

    >>> nodes, weights = exp_sinh_quadrature(100)
    >>> print(f"{weights @ np.exp(-nodes):.12f}")
    1.000000000000
    """
    t, spacing = np.linspace(-3.9, 3.2, num_points, retstep=True)
    nodes = np.exp(0.5 * np.pi * np.sinh(t))
    return nodes, 0.5 * np.pi * spacing * np.cosh(t) * nodes

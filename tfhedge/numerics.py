"""Functions with finite gradients, Chebyshev interpolation and quadrature."""

import numpy as np
import tensorflow as tf


def float64(x):
    """A float64 tensor of numbers, of an array or of a tensor of another precision."""
    # Not `tf.cast` of a Python number, which would be one of float32 first.
    return tf.cast(x, tf.float64) if tf.is_tensor(x) else tf.convert_to_tensor(x, tf.float64)


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


def symlog(x):
    r"""Computes the symmetric logarithm, the inverse of the symmetric exponential.

    $$\mathrm{symlog}(x) = \mathrm{sign}(x)\,\log(1 + |x|)$$

    Odd, and once continuously differentiable: the derivative is $1 / (1 + |x|)$ everywhere.

    Args:
        x: float tensor of any shape.

    Returns:
        Tensor with the shape and dtype of `x`.

    Reference: Hafner et al., Mastering diverse domains through world models (2023), eq. 9.

    >>> print(symlog([-1.0, 0.0, 1.0]).numpy())
    [-0.6931472  0.         0.6931472]
    """
    x = tf.convert_to_tensor(x)
    negative = x < 0  # branches with a gradient at 0, as in `symexp`
    magnitude = tf.math.log1p(tf.where(negative, -x, x))
    return tf.where(negative, -magnitude, magnitude)


def complex_log1p(x):
    r"""$\log(1 + x)$ of complex numbers, precise for small ones.

    $$\log(1 + a + ib) = \tfrac12\,\mathrm{log1p}(a(2 + a) + b^2) + i\,\mathrm{atan2}(b, 1 + a)$$

    `tf.math.log1p` is off by 1e-16 for complex numbers however small they are.

    Args:
        x: complex tensor of any shape.

    Returns:
        Tensor with the shape and dtype of `x`, the principal branch.

    >>> complex_log1p(tf.constant(1e-12j, tf.complex128)).numpy().item()
    (5e-25+1e-12j)
    """
    a, b = tf.math.real(x), tf.math.imag(x)
    return tf.complex(0.5 * tf.math.log1p(a * (2.0 + a) + b**2), tf.atan2(b, 1.0 + a))


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


def bisect(holds, low, high, num_steps):
    """Bisects for the point up to which a condition holds, a fixed number of times.

    Args:
        holds: function from points to booleans, true below some point and false above.
        low: float tensor, lower ends, where it is taken to hold.
        high: float tensor of the same shape, upper ends.
        num_steps: number of bisections.

    Returns:
        The last points at which the condition was found to hold, a tensor of the shape of `low`.

    >>> print(f"{bisect(lambda x: x**2 < 2, tf.constant(1.0), tf.constant(2.0), 20).numpy():.5f}")
    1.41421
    """

    def step(low, high):
        middle = 0.5 * (low + high)
        below = holds(middle)
        return tf.where(below, middle, low), tf.where(below, high, middle)

    return tf.while_loop(lambda *_: True, step, (low, high), maximum_iterations=num_steps)[0]

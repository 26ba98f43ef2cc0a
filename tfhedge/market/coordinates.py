r"""Coordinates in which Heston's parameters are searched for.

They are $\log v_0$, $\log\kappa$, $\log\theta$, $\log\xi$ and $\rho$. Where Feller's condition
$2\kappa\theta \ge \xi^2$ is to hold, the fourth is $\log(\xi/\sqrt{2\kappa\theta}) \le 0$.
"""

import math

import numpy as np
import tensorflow as tf

PARAMETERS = ("v0", "kappa", "theta", "xi", "rho")
BOUNDS = {
    "v0": (1e-5, 9.0),
    "kappa": (0.01, 50.0),
    "theta": (1e-5, 9.0),
    "xi": (0.01, 10.0),
    "rho": (-0.999, 0.999),
}
FELLER_BOUNDS = (1e-4, 1.0)


def coordinate_bounds(feller=False):
    """The lowest and the highest coordinates, two float64 tensors `[5]`."""
    bounds = BOUNDS | ({"xi": FELLER_BOUNDS} if feller else {})
    low, high = np.array(list(bounds.values())).T
    return [tf.constant(np.append(np.log(x[:4]), x[4])) for x in (low, high)]


def coordinates_of(parameters, feller=False):
    """Coordinates of parameters in the order of `PARAMETERS`, float64 tensors `[num_markets, 5]`.

    >>> coordinates_of([[1.0, 2.0, 1.0, 2.0, -0.5]], feller=True).numpy()
    array([[ 0.        ,  0.69314718,  0.        ,  0.        , -0.5       ]])
    """
    v0, kappa, theta, xi, rho = tf.unstack(tf.convert_to_tensor(parameters, tf.float64), axis=-1)
    v0, kappa, theta, xi = map(tf.math.log, (v0, kappa, theta, xi))
    if feller:
        xi -= 0.5 * (math.log(2.0) + kappa + theta)
    return tf.stack([v0, kappa, theta, xi, rho], axis=-1)


def parameters_at(x, feller=False):
    """Parameters at coordinates, float64 tensors `[num_markets, 5]`.

    >>> parameters_at(tf.zeros([1, 5], tf.float64)).numpy()
    array([[1., 1., 1., 1., 0.]])
    """
    v0, kappa, theta, xi, rho = tf.unstack(x, axis=-1)
    if feller:
        xi += 0.5 * (math.log(2.0) + kappa + theta)
    return tf.stack([*map(tf.exp, (v0, kappa, theta, xi)), rho], axis=-1)


def by_coordinates(jacobian, parameters, feller=False):
    """Derivatives by the coordinates.

    Args:
        jacobian: derivatives by the parameters, float64 tensor `[num_markets, n, 5]`.
        parameters: where they were taken, `[num_markets, 5]`.
        feller: whether Feller's condition is to hold.

    Returns:
        float64 tensor of the shape of `jacobian`.

    >>> by_coordinates(tf.ones([1, 1, 5]), tf.constant([[0.5, 2.0, 0.25, 1.0, 0.0]])).numpy()
    array([[[0.5 , 2.  , 0.25, 1.  , 1.  ]]], dtype=float32)
    """
    v0, kappa, theta, xi, _ = tf.unstack(parameters[:, tf.newaxis], axis=-1)
    d_v0, d_kappa, d_theta, d_xi, d_rho = tf.unstack(jacobian, axis=-1)
    d_v0, d_kappa, d_theta, d_xi = d_v0 * v0, d_kappa * kappa, d_theta * theta, d_xi * xi
    if feller:
        d_kappa, d_theta = d_kappa + 0.5 * d_xi, d_theta + 0.5 * d_xi
    return tf.stack([d_v0, d_kappa, d_theta, d_xi, d_rho], axis=-1)

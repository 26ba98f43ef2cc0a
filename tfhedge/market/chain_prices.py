"""Heston prices of a whole chain of options, fast enough for a search over the parameters."""

import math
import typing

import numpy as np
import tensorflow as tf

from tfhedge.market.affine import affine_exponents, to_complex
from tfhedge.market.implied import black_price

# Half of the contour: nodes, and its end in standard deviations.
_NUM_NODES, _END = 64, 60.0


class ChainPrices(typing.NamedTuple):
    r"""Prices of a chain by a quadrature whose nodes all strikes of an expiry share.

    With $F$ the forward, $k = \log(K/F)$ and $M(z) = \mathbb E[(x_\tau/F)^z]$, on the line
    $\mathrm{Re}\,z = \tfrac12$ and with $B$ for Black's model at the volatility at the money,

    $$\frac{\text{price}(K)}F = \frac{\text{price}_B(K)}F - \frac{e^{k/2}}\pi\int_0^\infty
      \mathrm{Re}\,\frac{\bigl(M(\tfrac12 + iu) - M_B(\tfrac12 + iu)\bigr)\,e^{-iuk}}
      {u^2 + \tfrac14}\,du.$$

    $M$ is holomorphic in the parameters too, so one reverse pass gives its derivatives by all of
    them. Far out of the money, where a price is below 1e-10 of the forward, it has no correct
    digit: for those there is `heston_price`.

    Attributes, the quotes being laid out in a table of expiries by strikes, the latter padded:
        z: the nodes, `[num_expiries, num_nodes]`.
        maturity: in years, `[num_expiries, 1]`.
        black_moment: $M_B$ at the nodes.
        kernel: what turns the moments into prices, `[num_expiries, 2 num_nodes, num_strikes]`.
        place: where each quote stands in the table, `[num_quotes]`.
        excess: Black's price less that of the quote, over the forward, `[num_quotes]`.

    Reference: Andersen and Piterbarg, Interest rate modeling (2010), section 8.4, for Black's model
    as the control variate.
    """

    z: tf.Tensor
    maturity: tf.Tensor
    black_moment: tf.Tensor
    kernel: tf.Tensor
    place: tf.Tensor
    excess: tf.Tensor

    @classmethod
    def of(cls, chain):
        """The quadrature for an `OptionChain`."""
        maturities, at_the_money = chain.at_the_money
        deviation = (at_the_money * np.sqrt(maturities))[:, None]
        expiry = np.searchsorted(maturities, chain.maturity)
        position = np.array([np.sum(expiry[:i] == e) for i, e in enumerate(expiry)])
        k = chain.log_moneyness
        table = np.zeros((len(maturities), position.max() + 1))
        table[expiry, position] = k

        spacing = math.asinh(_END) / _NUM_NODES
        t = spacing * (np.arange(_NUM_NODES) + 0.5)
        u, du = np.sinh(t) / deviation, np.cosh(t) * spacing / deviation
        wave = np.exp((0.5 - 1j * u[..., None]) * table[:, None, :])
        kernel = (-du / (math.pi * (u**2 + 0.25)))[..., None] * wave
        black, quoted = (
            black_price(volatility, 1.0, np.exp(k), chain.maturity, k >= 0)
            for volatility in (at_the_money[expiry], chain.volatility)
        )
        return cls(
            z=tf.constant(0.5 + 1j * u),
            maturity=tf.constant(maturities[:, None]),
            black_moment=to_complex(np.exp(-0.5 * deviation**2 * (u**2 + 0.25))),
            kernel=tf.constant(np.concatenate([kernel.real, -kernel.imag], axis=1)),
            place=tf.constant(expiry * table.shape[1] + position),
            excess=black - quoted,
        )

    def errors(self, parameters):
        """Prices less those of the quotes, over the forward.

        Args:
            parameters: v0, kappa, theta, xi and rho, float64 tensor `[num_markets, 5]`.

        Returns:
            `[num_markets, num_quotes]`.
        """
        exponent, _ = self._exponent(parameters)
        return self._integrals([tf.exp(exponent) - self.black_moment])[:, 0] + self.excess

    def errors_and_jacobian(self, parameters):
        """The errors with their derivatives by the parameters, `[num_markets, num_quotes, 5]`."""
        exponent, derivatives = self._exponent(parameters)
        moment = tf.exp(exponent)
        slopes = [moment * derivative for derivative in derivatives()]
        error, *jacobian = tf.unstack(
            self._integrals([moment - self.black_moment, *slopes]), axis=1
        )
        return error + self.excess, tf.stack(jacobian, axis=-1)

    def _exponent(self, parameters):
        """The exponent of the moment at each node, and a function for its derivatives."""
        shape = tf.concat([tf.shape(parameters)[:1], tf.shape(self.z)], axis=0)
        v0, *others = (
            tf.broadcast_to(x[:, tf.newaxis, tf.newaxis], shape)
            for x in tf.unstack(to_complex(parameters), axis=-1)
        )
        with tf.GradientTape() as tape:
            tape.watch(others)
            A, B = affine_exponents(self.z, self.maturity, *others)
            exponent = A + B * v0
        return exponent, lambda: [B, *map(tf.math.conj, tape.gradient(exponent, others))]

    def _integrals(self, values):
        """Of a list of complex `[num_markets, num_expiries, num_nodes]`, for each quote."""
        values = tf.stack(values, axis=1)
        values = tf.concat([tf.math.real(values), tf.math.imag(values)], axis=-1)
        table = tf.einsum("spen,enk->spek", values, self.kernel)
        table = tf.reshape(table, tf.concat([tf.shape(table)[:2], [-1]], axis=0))
        return tf.gather(table, self.place, axis=-1)

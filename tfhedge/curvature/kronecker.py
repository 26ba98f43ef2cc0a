"""Curvature of one layer: Kronecker factors, their eigenbasis, and a rescaled diagonal in it."""

import tensorflow as tf


class KroneckerBlock:
    r"""The block of a layer s_t = W' [a_t; 1] whose weights W are used at every time step.

    For pseudo-gradients g_t, whose covariance is the curvature, the block E[vec(DW) vec(DW)'] with
    DW = sum_t [a_t; 1] g_t' has the Kronecker factors

        A = T^(-1/2) sum_t E[ [a_t; 1] [a_t; 1]' ],      G = T^(-1/2) sum_t E[ g_t g_t' ]

    of RNN-KFAC, eq. (8), which leaves out what a_t g_t' has to do with a_s g_s' at other times. The
    pseudo-gradients DW of whole paths, which know of it, give others, as in Shampoo,

        A = E[DW DW'] / c,      G = E[DW' DW] / c,      c^2 = E|DW|^2.

    In the eigenbases Q_A, Q_G of the factors the diagonal is estimated afresh, eq. (10),

        D = E[ (Q_A' DW Q_G)^2 ],

    and a gradient V is preconditioned by what is made of D by damping (lines 17 and 19):

        Q_A ( (Q_A' V Q_G) / damped D ) Q_G'.

    A, G and D are exponential moving averages over the samples, and c is that of each sample. When
    the eigenbases change, D moves along, unless it is told to stay: it becomes the diagonal, in the
    new basis, of the matrix that it stood for in the old.

    Matrices are laid out as Keras kernels, `[inputs, outputs]`, with the bias as last row.

    Args:
        kernel_shape: Shape of the layer's kernel.
        use_bias: Whether the layer has a bias.
        add_variable: Makes a state variable from a shape, an initializer and a name.

    Reference: Mueller et al., sections 3.2 and 3.3; George et al. (2018) for the rescaling; Morwani
    et al. (2024), A new perspective on Shampoo's preconditioner, for the factors from DW.
    """

    def __init__(self, kernel_shape, use_bias, add_variable):
        num_inputs, num_outputs = kernel_shape
        num_inputs += int(use_bias)
        self.use_bias = use_bias
        self.input_factor = add_variable((num_inputs, num_inputs), "zeros", "input_factor")
        self.output_factor = add_variable((num_outputs, num_outputs), "zeros", "output_factor")
        self.input_basis = add_variable((num_inputs, num_inputs), "identity", "input_basis")
        self.output_basis = add_variable((num_outputs, num_outputs), "identity", "output_basis")
        self.diagonal = add_variable((num_inputs, num_outputs), "zeros", "diagonal")
        self.treatment = f"Kronecker, {num_inputs} x {num_outputs}"

    def update_factors_by_step(self, input_moment, g, decay):
        """Lines 5 and 11: moving averages of A and G, eq. (8).

        Args:
            input_moment: T^(-1/2) sum_t E[ [a_t; 1] [a_t; 1]' ], `[inputs + 1, inputs + 1]`; its
                paths need not be those of the sample.
            g: Pseudo-gradients, `[num_paths, num_steps, outputs]`.
            decay: Weight of the past.

        Returns:
            Whether the new values were finite, and were taken in.
        """
        if not self.use_bias:
            input_moment = input_moment[:-1, :-1]
        taken = _average(self.input_factor, input_moment, decay)
        return taken & _average(self.output_factor, second_moment(g), decay)

    def update_factors_by_path(self, a, g, decay):
        """Moving averages of A and G from DW.

        Args:
            a: Layer inputs, `[num_paths, num_steps, inputs]`.
            g: Pseudo-gradients, `[num_paths, num_steps, outputs]`.
            decay: Weight of the past.

        Returns:
            Whether the new values were finite, and were taken in.
        """
        gradients = self._pseudo_gradients(a, g)
        num_paths = tf.cast(tf.shape(gradients)[0], gradients.dtype)
        scale = tf.sqrt(num_paths * tf.reduce_sum(gradients**2))
        scaled = tf.math.divide_no_nan(gradients, scale)
        taken = _average(self.input_factor, tf.einsum("nio,njo->ij", scaled, gradients), decay)
        return taken & _average(
            self.output_factor, tf.einsum("nio,nip->op", scaled, gradients), decay
        )

    def update_eigenbasis(self, carry_diagonal=True):
        """Line 14: eigenvectors of A and G, in float64.

        Args:
            carry_diagonal: Whether D is carried over to the new basis.

        Returns:
            Whether the eigenvectors are finite, and were taken.
        """
        bases = self.input_basis, self.output_basis
        factors = self.input_factor, self.output_factor
        vectors = [tf.linalg.eigh(tf.cast(factor, tf.float64))[1] for factor in factors]
        taken = all_finite(vectors)
        rotations = []
        for basis, new in zip(bases, vectors, strict=True):
            new = tf.where(taken, tf.cast(new, basis.dtype), basis)
            rotations.append(tf.matmul(new, basis, transpose_a=True) ** 2)
            basis.assign(new)
        if carry_diagonal:
            left, right = rotations
            self.diagonal.assign(left @ tf.matmul(self.diagonal, right, transpose_b=True))
        return taken

    def update_diagonal(self, a, g, decay):
        """Line 12: moving average of D. Arguments and result: `update_factors_by_path`."""
        rotated = self._pseudo_gradients(a, g) @ self.output_basis
        rotated = tf.matmul(self.input_basis, rotated, transpose_a=True)
        return _average(self.diagonal, tf.reduce_mean(rotated**2, axis=0), decay)

    def precondition(self, gradients, damped):
        """Lines 17 and 19 for the gradients of kernel and bias, with the damped D."""
        matrix = tf.concat([tf.reshape(g, [-1, g.shape[-1]]) for g in gradients], axis=0)
        rotated = tf.matmul(self.input_basis, matrix, transpose_a=True) @ self.output_basis
        rotated /= damped
        matrix = self.input_basis @ tf.matmul(rotated, self.output_basis, transpose_b=True)
        return [matrix[:-1], matrix[-1]] if self.use_bias else [matrix]

    def _pseudo_gradients(self, a, g):
        """DW of each path, `[num_paths, inputs + 1, outputs]`."""
        return tf.matmul(homogeneous(a) if self.use_bias else a, g, transpose_a=True)


class DiagonalBlock:
    """The block of a layer s_t = w * a_t, elementwise: a diagonal.

    It answers to the methods of `KroneckerBlock`; its eigenbasis is the one it has.

    Args:
        size: Number of weights.
        add_variable: Makes a state variable from a shape, an initializer and a name.
    """

    def __init__(self, size, add_variable):
        self.diagonal = add_variable((size,), "zeros", "diagonal")
        self.treatment = "diagonal"

    def update_factors_by_step(self, input_moment, g, decay):
        """Nothing to do: there are no factors."""
        return tf.constant(True)

    def update_factors_by_path(self, a, g, decay):
        """Nothing to do either."""
        return tf.constant(True)

    def update_eigenbasis(self, carry_diagonal=True):
        """Nothing to do: the basis is that of the weights."""
        return tf.constant(True)

    def update_diagonal(self, a, g, decay):
        """Moving average of the squared pseudo-gradient of each path."""
        per_path = tf.einsum("nti,nti->ni", a, g)
        return _average(self.diagonal, tf.reduce_mean(per_path**2, axis=0), decay)

    def precondition(self, gradients, damped):
        """Divides by the damped diagonal."""
        return [gradients[0] / damped]


def shrink(diagonal, intensity, target):
    """Linear shrinkage towards a number, as in eq. (11): (1 - rho) D + rho target.

    If the target is zero, as in a network without influence, the result is all one.

    Example:
    >>> print(shrink(tf.constant([0.0, 1.0]), 0.25, target=0.5).numpy())
    [0.125 0.875]
    """
    shrunk = (1.0 - intensity) * diagonal + intensity * target
    return tf.where(target > 0.0, shrunk, tf.ones_like(shrunk))


def homogeneous(a):
    """The inputs with a coordinate of ones for the bias, [a_t; 1]."""
    return tf.concat([a, tf.ones_like(a[..., :1])], axis=-1)


def second_moment(x):
    """T^(-1/2) sum_t E[x_t x_t'] of `[num_paths, num_steps, size]`, the factors of eq. (8)."""
    num_paths, num_steps = tf.unstack(tf.cast(tf.shape(x)[:2], x.dtype))
    return tf.einsum("nti,ntj->ij", x, x) / (num_paths * tf.sqrt(num_steps))


def all_finite(tensors):
    """Whether no number of any of the tensors is infinite or NaN.

    >>> bool(all_finite([tf.constant([1.0, 2.0]), tf.constant(float("nan"))]))
    False
    """
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(x)) for x in tensors])


def _average(variable, value, decay):
    """Moves an average, unless it would cease to be finite; whether it did."""
    average = decay * variable + (1.0 - decay) * value
    finite = all_finite([average])
    variable.assign(tf.where(finite, average, variable))
    return finite

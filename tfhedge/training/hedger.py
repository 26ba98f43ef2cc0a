"""The Keras model that learns to hedge."""

import functools
import logging
from types import NoneType

import keras
import tensorflow as tf

from tfhedge import checks
from tfhedge.curvature.kronecker import all_finite
from tfhedge.curvature.kronecker_optimizer import KroneckerOptimizer
from tfhedge.curvature.report import CurvatureReport
from tfhedge.evaluation.report import evaluate_hedge
from tfhedge.hedging.controls import Controls
from tfhedge.hedging.problem import HedgingProblem
from tfhedge.policy.rollout import Policy
from tfhedge.training.gauss_newton import GaussNewton
from tfhedge.training.guard import Guard
from tfhedge.training.loss_gradient import loss_gradient
from tfhedge.training.metric import HedgeMetric

logger = logging.getLogger(__name__)

# What is tested; others may have to be asked differently for their replicas.
STRATEGIES = tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy

ONE_NUMBER_OF_PATHS = "Expected features, returns and payoff of one number of paths"


@keras.saving.register_keras_serializable("tfhedge")
class DeepHedger(keras.Model):
    """Trains a policy on a hedging problem.

    An ordinary Keras model: `compile` with a `DHKFAC` or any other Keras optimizer, `fit` on
    `problem.dataset(...)`, `save` as a `.keras` file, with the problem and the optimizer's state.
    The loss is the problem's objective on each batch, the metrics are `loss`, `pnl_std` and `cost`,
    in training by `DHKFAC` also its `rejected_steps`.

    Args:
        problem: The `HedgingProblem`.
        policy: The policy, `RecurrentPolicy` or `DensePolicy`.
        controls: What the policy decides on: `"positions"` in the instruments that can be held, and
            trades in others; or `"trades"` in all of them, as in the paper.
        name: Name of the model.
        trainable: Whether `fit` changes the policy.

    Raises:
        ValueError: If something is in another's place, or the policy was built for another problem.

    Call arguments:
        features: `[num_paths, num_steps, num_features]`, as `problem.features` makes them.

    Returns:
        Trades u, `[num_paths, num_steps, num_instruments]`.

    Example:
    >>> import tfhedge as th
    >>> problem = th.HedgingProblem(
    ...     market=th.Heston.from_paper(),
    ...     claim=th.Cliquet(num_periods=2, period=5, cap=0.015),
    ...     instruments=th.FloatingGrid(maturities=(5,), strikes=(1.01,)),
    ...     objective=th.MeanVariance(risk_aversion=1000.0),
    ... )
    >>> hedger = th.DeepHedger(problem, th.RecurrentPolicy(units=8, num_blocks=1))
    >>> hedger.compile(optimizer=th.DHKFAC())
    >>> history = hedger.fit(problem.dataset(num_paths=1024, batch_size=128), verbose=0)
    >>> sorted(history.history)
    ['cost', 'loss', 'pnl_std', 'rejected_steps']
    """

    def __init__(self, problem, policy, controls="positions", name=None, trainable=True):
        super().__init__(name=name, trainable=trainable)
        if not isinstance(problem, HedgingProblem):
            raise ValueError(f"Expected `problem` to be a HedgingProblem. Received: {problem}")
        if not isinstance(policy, Policy):
            raise ValueError(
                f"Expected `policy` to be a policy such as RecurrentPolicy(). Received: {policy!r}"
            )
        self.problem = problem
        self.policy = policy
        self.controls = Controls.of(problem, controls)
        self.kind_of_controls = controls
        self.hedge_metric = HedgeMetric(problem.objective)
        self._compiles_policy, self._strategy = False, None
        self.build((None, problem.num_steps, problem.num_features))

    def build(self, features_shape):
        """Creates the policy's weights, unless it has those of another hedger or of a file."""
        if not self.policy.built:
            self.policy.build(features_shape, self.problem.availability.shape)
        there = self.policy.cell.num_instruments, self.policy.num_features
        here = self.problem.num_instruments, self.problem.num_features
        if there != here:
            raise ValueError(
                "Expected a policy for the problem's numbers of instruments and features, "
                f"{here}. Received one that was built for {there}"
            )

    @property
    def metrics(self):
        """The one metric, which `fit` resets at each epoch."""
        return [self.hedge_metric]

    def compile(self, optimizer="adam", jit_compile=False, strategy=None, **kwargs):
        """Sets how `fit` trains.

        Args:
            optimizer: A `DHKFAC`, or any other Keras optimizer.
            jit_compile: Whether XLA compiles the whole step; Keras' loop over time loses by it.
            strategy: A `tf.distribute.MirroredStrategy` or `MultiWorkerMirroredStrategy` whose
                replicas share each batch; it is not saved. The model is made outside of its scope:
                each process has its own, does with it what the others do, and is given the whole
                batch.
            **kwargs: As for any Keras model, but for losses and metrics.

        Raises:
            ValueError: If there is no optimizer, or a `DHKFAC` within another; if a `DHKFAC` is to
                train a policy of which a part is frozen; if the strategy is another one; or if a
                loss or metrics are given, which the problem's objective stands for.
        """
        for argument in ("loss", "loss_weights", "metrics", "weighted_metrics"):
            if kwargs.get(argument) is not None:
                raise ValueError(
                    f"Expected no `{argument}`: the loss is the problem's objective. "
                    f"Received: {argument}={kwargs[argument]!r}"
                )
        inner = getattr(optimizer, "inner_optimizer", None)  # of Keras' LossScaleOptimizer
        if optimizer is None or isinstance(inner, KroneckerOptimizer):
            raise ValueError(
                "Expected an optimizer, and none around a `DHKFAC`, which needs no scaled loss. "
                f"Received: optimizer={optimizer}"
            )
        if not isinstance(strategy, (*STRATEGIES, NoneType)):
            names = " or a ".join(strategy.__name__ for strategy in STRATEGIES)
            raise ValueError(f"Expected `strategy` to be a {names}. Received: {strategy!r}")
        self._check_trainable(optimizer)
        # Keras would wrap the optimizer to scale the loss of float16; `train_step` does it.
        super().compile(
            optimizer=optimizer, jit_compile=jit_compile, auto_scale_loss=False, **kwargs
        )
        self._strategy = strategy
        obstacle = self._obstacle()
        self._compiles_policy = obstacle is None
        if obstacle:
            logger.warning("The policy is not compiled, and slower: %s", obstacle)
        else:
            logger.info("The policy is compiled, in %d lanes", self.policy.compiled.num_lanes)
        # State that is made while `train_step` is traced would have it traced twice.
        self.optimizer.build(self.trainable_variables)

    def _check_trainable(self, optimizer):
        """Refuses to train a policy of which a part is frozen by a `DHKFAC`."""
        frozen = len(self.policy.weights) - len(self.trainable_weights)
        if isinstance(optimizer, KroneckerOptimizer) and frozen:
            raise ValueError(
                f"Expected a policy that is trainable as a whole, for {optimizer.name}. "
                f"Received: one with {frozen} weights that are not"
            )

    def _obstacle(self):
        """Why the policy cannot go by the compiled route, or None."""
        if self.jit_compile:
            return "the whole step is compiled"
        if self._strategy and len(self._strategy.extended.worker_devices) > 1:
            return "several replicas share this process"
        return self.policy.compiled.obstacle()

    def compile_from_config(self, config):
        """Compiles as `get_compile_config` says."""
        self.compile(**keras.saving.deserialize_keras_object(config))

    def get_config(self):
        """The arguments that make this model again."""
        parts = {"problem": self.problem, "policy": self.policy}
        encoded = {name: keras.saving.serialize_keras_object(part) for name, part in parts.items()}
        flags = {"name": self.name, "trainable": self.trainable}
        return {**flags, "controls": self.kind_of_controls, **encoded}

    @classmethod
    def from_config(cls, config):
        """The model that `get_config` was of."""
        decode = keras.saving.deserialize_keras_object
        parts = {name: decode(config[name]) for name in ("problem", "policy")}
        return cls(**{**config, **parts})

    def fit(self, *args, callbacks=None, shuffle=False, **kwargs):
        """Trains as any Keras model, and ends with an error where training fails.

        Args:
            *args: As for any Keras model.
            callbacks: Likewise.
            shuffle: Likewise; paths are independent of each other, and need no shuffling.
            **kwargs: Likewise.

        Returns:
            Keras' `History`.

        Raises:
            TrainingError: If the loss is not finite, or a `DHKFAC` finds no step that it can take.
                The policy then has the best of its weights: those with the least validation loss,
                or without a validation those with the least loss of an epoch.
        """
        if isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = callbacks.callbacks
        callbacks = [*tf.nest.flatten(callbacks or []), Guard()]
        return super().fit(*args, callbacks=callbacks, shuffle=shuffle, **kwargs)

    def call(self, features):
        """All trades of each path."""
        features = self._checked_features(features)
        actions = self.policy(features, self.problem.availability)
        return self.controls.trades(tf.cast(actions, self.policy.variable_dtype))

    def compute_output_shape(self, features_shape):
        """That of the trades."""
        return (*features_shape[:2], self.problem.num_instruments)

    def actions(self, features, differentiable=True):
        """All trades of each path, by the faster route where there is one.

        Args:
            features: As for a call.
            differentiable: Whether gradients may be asked for.

        Returns:
            Trades u, `[num_paths, num_steps, num_instruments]`.
        """
        if not self._compiles_policy:
            return self(tf.convert_to_tensor(features))  # Keras takes no lists of numbers
        features = tf.cast(self._checked_features(features), self.policy.variable_dtype)
        actions = self.policy.compiled(features, self.problem.availability, differentiable)
        return self.controls.trades(actions)

    def outcome(self, features, returns, payoff, part=(0, 1)):
        """The outcome of paths, differentiable by the weights.

        Args:
            features: `[num_paths, num_steps, num_features]`.
            returns: `[num_paths, num_steps, num_instruments]`.
            payoff: `[num_paths]`.
            part: Which part of a batch this is, and of how many.

        Returns:
            P&L and cost, each `[num_paths]`, and the compiled `ForwardPass` or None.
        """
        if not self._compiles_policy:
            actions = self.actions(features)
            return self.problem.pnl(actions, returns, payoff), self.problem.cost(actions), None
        forward_pass = self.policy.compiled.forward(features, self.problem.availability, part)
        gains, cost = forward_pass.gains_and_costs(
            returns, self.problem.costs, self.controls.carried
        )
        notional = self.controls.notional
        return notional * gains - payoff, notional * cost, forward_pass

    def train_step(self, data):
        """One step of the optimizer on one batch, of which each replica has its share."""
        features, returns, payoff = batch = self._unpack(data)
        num_parts = 2 if getattr(self.optimizer, "needs_half_gradients", False) else 1

        def gradients_of(*batch):
            return loss_gradient(self, batch, num_parts)

        if self._strategy is None:
            pnl, cost, gradients, halves, forward_pass = gradients_of(*batch)
        else:
            results = self._strategy.run(lambda *batch: gradients_of(*batch)[:-1], args=batch)
            pnl, cost, gradients, halves = tf.nest.map_structure(
                lambda x: self._strategy.experimental_local_results(x)[0], results
            )
            forward_pass = None
        if isinstance(self.optimizer, KroneckerOptimizer):
            self._check_trainable(self.optimizer)  # it may have been frozen since `compile`
            curvature = self.curvature(features, returns, payoff, pnl, cost, halves, forward_pass)
            self.optimizer.apply(gradients, self.trainable_variables, curvature)
            more = {"rejected_steps": tf.convert_to_tensor(self.optimizer.rejected_steps)}
            # A step that is taken back leaves no NaN in the averages of the epoch.
            finite = all_finite([pnl, cost])
            tf.cond(finite, lambda: self.hedge_metric.update_state(pnl, cost), lambda: None)
        else:
            self.optimizer.apply(gradients, self.trainable_variables)
            self.hedge_metric.update_state(pnl, cost)
            more = {}
        return self.hedge_metric.result() | more

    def curvature(
        self, features, returns, payoff, pnl, cost, half_gradients=None, forward_pass=None
    ):
        """The curvature of a batch, as the optimizer, a `DHKFAC`, wants it.

        Args:
            features: The batch's features, `[num_paths, num_steps, num_features]`.
            returns: The batch's returns, `[num_paths, num_steps, num_instruments]`.
            payoff: The batch's payoffs, `[num_paths]`.
            pnl: The batch's P&L before costs, `[num_paths]`.
            cost: The batch's transaction costs, `[num_paths]`.
            half_gradients: Gradients of two halves of the batch, each a list, or None.
            forward_pass: The compiled forward pass of the batch, if there was one.

        Returns:
            A `GaussNewton`.
        """
        return GaussNewton(
            problem=self.problem,
            policy=self.policy,
            controls=self.controls,
            quadratic_cost_ratio=self.optimizer.quadratic_cost_ratio,
            features=features,
            returns=returns,
            payoff=payoff,
            pnl=pnl,
            cost=cost,
            half_gradients=half_gradients,
            forward_pass=forward_pass,
        )

    def test_step(self, data):
        """Adds one batch to the metrics."""
        features, returns, payoff = self._unpack(data)
        actions = self.actions(features, differentiable=False)
        self.hedge_metric.update_state(
            self.problem.pnl(actions, returns, payoff), self.problem.cost(actions)
        )
        return self.hedge_metric.result()

    def predict_step(self, data):
        """The actions of one batch."""
        features, *_ = keras.utils.unpack_x_y_sample_weight(data)
        return self.actions(features, differentiable=False)

    def evaluate_hedge(self, num_paths=20_000, seed=(0, 2), batch_size=2048):
        """Compares the policy with no hedge and with itself without its option trades.

        Args:
            num_paths: Number of fresh paths.
            seed: Their seed, an integer or a pair of them; the default is a pair, so that these
                paths are not those of a training with any single integer.
            batch_size: Paths simulated at once.

        Returns:
            A `HedgeReport`; printing it gives a table.
        """
        dataset = self.problem.dataset(num_paths, batch_size, seed)
        actions = functools.partial(self.actions, differentiable=False)
        return evaluate_hedge(self.problem, actions, dataset)

    def curvature_report(self):
        """How each weight's gradient is preconditioned, and by what spectrum.

        Returns:
            A `CurvatureReport`; printing it gives a table.

        Raises:
            ValueError: If the optimizer has no curvature, or has not taken a step.
        """
        optimizer = getattr(self, "optimizer", None)
        if not isinstance(optimizer, KroneckerOptimizer) or not int(optimizer.iterations):
            raise ValueError(
                "Expected a hedger that has been trained by `DHKFAC`. "
                f"Received: optimizer={optimizer}"
            )
        return CurvatureReport.of(optimizer)

    def _checked_features(self, features):
        features = tf.convert_to_tensor(features)
        sizes = self.problem.num_steps, self.problem.num_features
        checks.shape("features", features, ["num_paths", *sizes])
        return tf.ensure_shape(features, [None, *sizes])  # Keras may have traced with other sizes

    def _unpack(self, data):
        """Features, returns and payoff of what `fit`, `train_on_batch` and their like hand over."""
        features, target, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if sample_weight is not None:
            raise ValueError(
                "Expected no `sample_weight`, as the objective is one of all paths together. "
                f"Received: sample_weight={sample_weight}"
            )
        if not isinstance(target, (tuple, list)) or len(target) != 2:
            raise ValueError(
                "Expected batches `(features, (returns, payoff))`, as those of `problem.dataset`. "
                f"Received: {data}"
            )
        returns, payoff = target
        features = self._checked_features(features)
        sizes = self.problem.num_steps, self.problem.num_instruments
        checks.shape("returns", returns, ["num_paths", *sizes])
        checks.shape("payoff", payoff, ["num_paths"])
        batch = features, returns, payoff
        known = [x.shape[0] for x in batch]
        if len(set(known) - {None}) > 1:
            raise ValueError(f"{ONE_NUMBER_OF_PATHS}. Received: {known}")
        first, *others = (tf.shape(x)[0] for x in batch)
        equal = [tf.debugging.assert_equal(first, n, ONE_NUMBER_OF_PATHS) for n in others]
        with tf.control_dependencies(equal):
            return [tf.cast(tf.identity(x), self.policy.variable_dtype) for x in batch]

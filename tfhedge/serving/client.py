"""Asks a served policy for trades."""

import json
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_service_pb2_grpc

from tfhedge import checks
from tfhedge.serving.tf_serving import predict_request


class HedgeClient:
    """A client of TensorFlow Serving, for what `export` has written.

    Args:
        address: `host:port` of the server's gRPC, or the `http://host:port` of its REST.
        model: The model's name, that of its base folder.
        version: The version to ask, or None for the latest.
        timeout: Seconds after which an answer has not come.

    Raises:
        ValueError: If the version is not a positive integer, or the time out not a positive number.
        RuntimeError: In each method, if the server cannot be reached or refuses the request.

    Example:
        client = HedgeClient("localhost:8500", "cliquet")
        state = client.initial_state(batch_size=1)
        state = client.step(
            t=0, spot=1.0, variance=0.0625, spot_at_last_reset=1.0, accrued=0.0, **state
        )
        trades, valid = state.pop("action"), state.pop("valid")  # what is left is for the next step
    """

    def __init__(self, address, model, version=None, timeout=10.0):
        self.model = model
        self.version = None if version is None else checks.positive_integer("version", version)
        self.timeout = checks.positive("timeout", timeout)
        self._predict = self._by_rest if "://" in address else self._by_grpc
        if "://" in address:
            versions = f"/versions/{version}" if version else ""
            self.url = f"{address.rstrip('/')}/v1/models/{urllib.parse.quote(model)}{versions}"
        else:
            channel = grpc.insecure_channel(address)
            self.stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def initial_state(self, batch_size):
        """The states before the first time.

        Args:
            batch_size: Number of paths.

        Returns:
            Arrays `[batch_size, size]` by name.

        Raises:
            ValueError: If the number is not a positive integer.
        """
        checks.positive_integer("batch_size", batch_size)
        # A server that batches needs an entry for each path.
        return self._predict("initial_state", {"batch_size": np.ones(batch_size, np.int32)})

    def step(self, t, **inputs):
        """The trades at one time.

        Args:
            t: Time in steps, an integer or `[batch]`.
            **inputs: What is observed, numbers or `[batch]`, and the states, `[batch, size]`.

        Returns:
            `action`, `[batch, num_instruments]`, `valid`, `[batch]`, and the next states, by name.

        Raises:
            ValueError: If a time is no integer.
        """
        if not np.issubdtype(np.asarray(t).dtype, np.integer):
            raise ValueError(f"Expected `t` to be an integer or integers. Received: t={t}")
        inputs = {name: np.asarray(x, np.float32) for name, x in inputs.items()}
        inputs = {"t": np.asarray(t, np.int32), **inputs}
        batch_size = max(len(np.atleast_1d(x)) for x in inputs.values())
        for name, x in inputs.items():
            inputs[name] = x if x.ndim else np.repeat(x, batch_size)
        return self._predict("step", inputs)

    def rollout(self, spot, variance):
        """The trades at all times of paths, which may be NaN where they are not known yet.

        Args:
            spot: Prices of the underlying, `[batch, num_steps]`.
            variance: Instantaneous variance, `[batch, num_steps]`.

        Returns:
            `action`, `[batch, num_steps, num_instruments]`, and `valid`, `[batch, num_steps]`.

        Raises:
            ValueError: If the two are not of one shape of that kind.
        """
        inputs = {"spot": np.float32(spot), "variance": np.float32(variance)}
        checks.shape("spot", inputs["spot"], ["batch", "num_steps"])
        checks.shape("variance", inputs["variance"], inputs["spot"].shape)
        return self._predict("rollout", inputs)

    def _by_grpc(self, signature, inputs):
        inputs = {name: tf.make_tensor_proto(x) for name, x in inputs.items()}
        request = predict_request(self.model, signature, inputs)
        if self.version:
            request.model_spec.version.value = self.version
        try:
            response = self.stub.Predict(request, self.timeout)
        except grpc.RpcError as error:
            raise RuntimeError(f"{signature}: {error.code().name}, {error.details()}") from error
        return {name: tf.make_ndarray(x) for name, x in response.outputs.items()}

    def _by_rest(self, signature, inputs):
        inputs = {name: x.tolist() for name, x in inputs.items()}
        body = json.dumps({"signature_name": signature, "inputs": inputs}).encode()
        outputs = self._ask(f"{self.url}:predict", "outputs", body)
        if isinstance(outputs, list):  # a single output comes without its name
            outputs = {self._only_output(signature): outputs}
        outputs = {name: np.asarray(x) for name, x in outputs.items()}
        return {name: x if x.dtype == bool else np.float32(x) for name, x in outputs.items()}

    def _only_output(self, signature):
        metadata = self._ask(f"{self.url}/metadata", "metadata")
        (name,) = metadata["signature_def"]["signature_def"][signature]["outputs"]
        return name

    def _ask(self, url, key, body=None):
        try:
            with urllib.request.urlopen(url, body, self.timeout) as answer:
                return json.load(answer)[key]
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{url}: {error}, {error.read().decode()}") from error
        except (OSError, HTTPException) as error:
            raise RuntimeError(f"{url}: {error}") from error
        except (LookupError, TypeError, ValueError) as error:
            raise RuntimeError(f"{url}: no answer of TensorFlow Serving, {error!r}") from error

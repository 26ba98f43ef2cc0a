"""What TensorFlow Serving reads, read back through its own protos, and the client against them.

The servers here answer as TensorFlow Serving's documentation says, by its protos; its binary is not
to be had from a package registry and has not been asked.
"""

import http.server
import json
import threading
from concurrent import futures

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from numpy.testing import assert_allclose, assert_array_equal
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2, prediction_service_pb2_grpc
from tensorflow_serving.config import model_server_config_pb2

import tfhedge as th
from tfhedge.serving.tf_serving import BATCH_SIZES, docker_command

SIGNATURES = ("serving_default", "step", "initial_state", "rollout")


def answer(signatures, request):
    """What a server makes of a `PredictRequest`."""
    inputs = {name: tf.constant(tf.make_ndarray(x)) for name, x in request.inputs.items()}
    return signatures[request.model_spec.signature_name](**inputs)


def test_each_signature_is_warmed_up_at_each_batch_size(base):
    signatures = tf.saved_model.load(base / "1").signatures
    path = base / "1" / "assets.extra" / "tf_serving_warmup_requests"
    assert path.stat().st_size < 20_000
    asked = []
    for record in tf.data.TFRecordDataset(str(path)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        outputs = answer(signatures, request)
        (size,) = {len(x) for x in outputs.values()}
        assert all(len(tf.make_ndarray(x)) == size for x in request.inputs.values())
        assert request.model_spec.name == "cliquet"
        asked.append((request.model_spec.signature_name, size))
    assert asked == [(name, size) for name in SIGNATURES for size in BATCH_SIZES]


def test_the_server_is_told_where_the_versions_are_and_how_to_batch(base):
    models = text_format.Parse(
        (base / "models.config").read_text(), model_server_config_pb2.ModelServerConfig()
    )
    (model,) = models.model_config_list.config
    assert (model.name, model.base_path) == ("cliquet", "/models/cliquet")
    # The proto of these settings is in no Python package.
    batching = (base / "batching.config").read_text()
    assert f"max_batch_size {{ value: {BATCH_SIZES[-1]} }}" in batching
    assert [f"allowed_batch_sizes: {size}" in batching for size in BATCH_SIZES] == [True] * 5
    command = docker_command(base)
    for name in ("models.config", "batching.config"):
        assert f"=/models/cliquet/{name}" in command
    assert f"source={base},target=/models/cliquet," in command


class Servicer(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Answers by gRPC."""

    def __init__(self, base):
        self.signatures = tf.saved_model.load(base / "1").signatures

    def Predict(self, request, context):
        spec = request.model_spec
        if spec.name != "cliquet" or spec.version.value not in (0, 1):
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found: {spec.name}")
        response = predict_pb2.PredictResponse()
        for name, x in answer(self.signatures, request).items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(x))
        return response


def rest_handler(base):
    signatures = tf.saved_model.load(base / "1").signatures

    class Handler(http.server.BaseHTTPRequestHandler):
        """Answers by REST, in columns."""

        def do_GET(self):
            outputs = {name: x.structured_outputs for name, x in signatures.items()}
            names = {name: {"outputs": {key: {} for key in x}} for name, x in outputs.items()}
            self.reply(200, {"metadata": {"signature_def": {"signature_def": names}}})

        def do_POST(self):
            if self.path not in (f"/v1/models/cliquet{v}:predict" for v in ("", "/versions/1")):
                return self.reply(404, {"error": "Servable not found"})
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            signature = signatures[request["signature_name"]]
            specs = signature.structured_input_signature[1]
            inputs = {
                name: tf.constant(x, specs[name].dtype) for name, x in request["inputs"].items()
            }
            outputs = {name: x.numpy().tolist() for name, x in signature(**inputs).items()}
            outputs = outputs if len(outputs) > 1 else next(iter(outputs.values()))
            return self.reply(200, {"outputs": outputs})

        def reply(self, status, content):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *arguments):
            pass

    return Handler


@pytest.fixture(params=["grpc", "rest"])
def address(request, base):
    if request.param == "grpc":
        server = grpc.server(futures.ThreadPoolExecutor(1))
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Servicer(base), server)
        port = server.add_insecure_port("localhost:0")
        server.start()
        yield f"localhost:{port}"
        server.stop(None)
    else:
        with http.server.ThreadingHTTPServer(("localhost", 0), rest_handler(base)) as server:
            threading.Thread(target=server.serve_forever).start()
            yield f"http://localhost:{server.server_port}/"
            server.shutdown()


def test_the_client_asks_for_trades(hedger, address, paths):
    client = th.HedgeClient(address, "cliquet", version=1)
    spot, variance = paths(4)
    expected = hedger.predict(hedger.problem.features(spot, variance), verbose=0)
    tolerance = {"rtol": 0.0, "atol": 1e-5 * np.abs(expected).max()}
    spot[3, 4:] = np.nan  # is not known yet
    result = client.rollout(spot, variance)
    assert_allclose(result["action"][:3], expected[:3], **tolerance)
    assert_allclose(result["action"][3, :4], expected[3, :4], **tolerance)
    assert_array_equal(result["valid"], [*[[True] * 6] * 3, [True] * 4 + [False] * 2])
    spot, variance = spot[:3], variance[:3]
    observables = hedger.problem.claim.observables(spot)
    state = client.initial_state(batch_size=3)
    for t in range(6):
        observed = {name: np.array(x[:, t]) for name, x in observables.items()}
        state = client.step(t, spot=spot[:, t], variance=variance[:, t], **observed, **state)
        assert state.pop("valid").all()
        assert_allclose(state.pop("action"), expected[:3, t], **tolerance)


def test_the_client_takes_plain_numbers_for_a_single_path(address):
    client = th.HedgeClient(address, "cliquet")
    observed = {"spot": 80.0, "variance": 0.05, "spot_at_last_reset": 80.0, "accrued": 0.0}
    result = client.step(t=0, **observed, **client.initial_state(1))
    with pytest.raises(ValueError, match="Expected `t` to be an integer"):
        client.step(t=0.9, **observed, **client.initial_state(1))
    assert result["action"].shape == (1, 3)
    assert result["action"].dtype == np.float32
    assert_array_equal(result["valid"], [True])


@pytest.mark.parametrize(("model", "version"), [("cliquet", 2), ("other", None)])
def test_what_is_not_served_is_said_to_be_missing(address, model, version):
    client = th.HedgeClient(address, model, version)
    with pytest.raises(RuntimeError, match=r"(?i)not.found"):
        client.initial_state(1)


def test_there_is_no_version_zero():
    with pytest.raises(ValueError, match="Expected `version` to be a positive integer"):
        th.HedgeClient("localhost:1", "cliquet", version=0)


def test_requests_that_make_no_sense_are_not_sent():
    with pytest.raises(ValueError, match="Expected `timeout` to be a positive number"):
        th.HedgeClient("localhost:1", "cliquet", timeout=-1.0)
    client = th.HedgeClient("localhost:1", "cliquet")
    for batch_size in (2.5, -1, True):
        with pytest.raises(ValueError, match="Expected `batch_size` to be a positive integer"):
            client.initial_state(batch_size)
    with pytest.raises(ValueError, match=r"Expected `spot` to be of shape \[batch, num_steps\]"):
        client.rollout(spot=np.ones(3), variance=np.ones(3))
    with pytest.raises(ValueError, match=r"Expected `variance` to be of shape \[2, 3\]"):
        client.rollout(spot=np.ones([2, 3]), variance=np.ones([1, 3]))


@pytest.mark.parametrize("address", ["localhost:1", "http://localhost:1"])
def test_a_server_that_is_not_there_is_said_to_be_away(address):
    with pytest.raises(RuntimeError, match=r"(?i)unavailable|refused"):
        th.HedgeClient(address, "cliquet", timeout=2.0).initial_state(1)


@pytest.mark.parametrize("answer", [b"it works", b"{}", b"[]"])
def test_another_server_is_said_to_be_none_of_tensorflow_serving(answer):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("localhost", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        client = th.HedgeClient(f"http://localhost:{server.server_port}", "my cliquet")
        with pytest.raises(RuntimeError, match=r"my%20cliquet.*no answer of Tensor"):
            client.initial_state(1)
        server.shutdown()

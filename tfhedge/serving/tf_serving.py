"""What TensorFlow Serving reads beside a SavedModel: settings, and requests to warm up by."""

import itertools
import shlex

import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from tfhedge.files import write_text

# Requests are joined into batches, which are filled up to one of these sizes.
BATCH_SIZES = (1, 8, 64, 512, 4096)

# Files in the base folder, whose versions are the server's.
MODELS_FILE, BATCHING_FILE = "models.config", "batching.config"

_BATCHING = """\
# Requests that wait are joined, up to {largest} paths; none waits for another that has not come.
max_batch_size {{ value: {largest} }}
batch_timeout_micros {{ value: 0 }}
max_enqueued_batches {{ value: 100 }}
num_batch_threads {{ value: 2 }}
"""


def write_configurations(base, name):
    """Writes `models.config` and `batching.config`, as `docker_command` mounts them.

    Args:
        base: The model's base folder, a `pathlib.Path`.
        name: The model's name.
    """
    models = model_server_config_pb2.ModelServerConfig()
    model = models.model_config_list.config.add()
    model.name, model.base_path, model.model_platform = name, f"/models/{name}", "tensorflow"
    write_text(base / MODELS_FILE, text_format.MessageToString(models))
    sizes = "".join(f"allowed_batch_sizes: {size}\n" for size in BATCH_SIZES)
    write_text(base / BATCHING_FILE, _BATCHING.format(largest=BATCH_SIZES[-1]) + sizes)


def write_warm_up(model, name, specs):
    """Writes the requests that a server answers before it takes any others.

    There is one for each signature and batch size. All numbers are one: of `initial_state` that
    asks for one path in each row, and what is out of range takes the same operations.

    Args:
        model: Folder of the SavedModel, a `pathlib.Path`.
        name: The model's name.
        specs: The inputs of each signature, `tf.TensorSpec` by name.
    """
    folder = model / "assets.extra"
    folder.mkdir()
    with tf.io.TFRecordWriter(str(folder / "tf_serving_warmup_requests")) as writer:
        signatures = [("serving_default", specs["step"]), *specs.items()]
        for (signature, inputs), size in itertools.product(signatures, BATCH_SIZES):
            ones = {key: constant(spec, size) for key, spec in inputs.items()}
            request = predict_request(name, signature, ones)
            log = prediction_log_pb2.PredictLog(request=request)
            record = prediction_log_pb2.PredictionLog(predict_log=log)
            writer.write(record.SerializeToString())


def predict_request(model, signature, inputs):
    """A request of a model's signature.

    Args:
        model: The model's name.
        signature: The signature's name.
        inputs: Tensor protos by name.

    Returns:
        The `PredictRequest`.
    """
    spec = model_pb2.ModelSpec(name=model, signature_name=signature)
    return predict_pb2.PredictRequest(model_spec=spec, inputs=inputs)


def constant(spec, size):
    """A tensor of ones as a proto, which holds a single one of them."""
    shape = [size, *spec.shape[1:]] if spec.shape.rank else [size]
    return tf.make_tensor_proto(1, spec.dtype, shape)


def docker_command(base):
    r"""The command that serves all versions in a model's base folder.

    Args:
        base: The folder, a `pathlib.Path`.

    Returns:
        The command; it serves gRPC at port 8500 and REST at port 8501.

    >>> from pathlib import Path
    >>> print(docker_command(Path("/srv/models/cliquet")).splitlines()[1].strip())
    --mount type=bind,source=/srv/models/cliquet,target=/models/cliquet,readonly \
    >>> print(docker_command(Path("/srv/my models")).splitlines()[3].strip())
    '--model_config_file=/models/my models/models.config' \
    """
    base = base.resolve()
    inside = f"/models/{base.name}"
    lines = [
        ["docker", "run", "--rm", "-p", "8500:8500", "-p", "8501:8501"],
        ["--mount", f"type=bind,source={base},target={inside},readonly"],
        ["tensorflow/serving"],
        [f"--model_config_file={inside}/{MODELS_FILE}"],
        ["--enable_batching", f"--batching_parameters_file={inside}/{BATCHING_FILE}"],
    ]
    return " \\\n    ".join(map(shlex.join, lines))

"""An ONNX graph as an MLflow model of a run."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature


def log_onnx(client: MlflowClient, run_id: str, path: Path, name: str, example: dict[str, np.ndarray]) -> None:
    """Log the graph with its signature; delete the run's earlier models of that name.

    Not `mlflow.onnx.log_model`: without MLflow's global "active run" that puts the model into the default
    experiment and ./mlruns, and it opens a session of every provider only to try the example.
    """
    import mlflow.onnx
    import onnx
    import onnxruntime
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    graph = onnx.load(path)
    query = f"source_run_id = '{run_id}' AND name = '{name}'"
    experiments = [client.get_run(run_id).info.experiment_id]
    earlier = client.search_logged_models(experiments, query)
    logged = client.create_logged_model(experiments[0], name, source_run_id=run_id, model_type="onnx")
    model = Model(logged.artifact_location, run_id, model_uuid=logged.model_id, model_id=logged.model_id)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model"
        mlflow.onnx.save_model(
            graph,
            target,
            mlflow_model=model,
            signature=signature(graph),
            input_example=example or None,
            # Stated, because MLflow would run the model for seconds to find out.
            pip_requirements=[f"onnx=={onnx.__version__}", f"onnxruntime=={onnxruntime.__version__}"],
            onnx_execution_providers=["CPUExecutionProvider"],
            save_as_external_data=False,
        )
        client.log_model_artifacts(logged.model_id, str(target))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    for old in earlier:
        client.delete_logged_model(old.model_id)


def signature(graph: onnx.ModelProto) -> ModelSignature:
    """Inputs and outputs with names, dtypes and shapes; -1 for a dynamic size."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec
    from onnx.helper import tensor_dtype_to_np_dtype

    def schema(values: list[onnx.ValueInfoProto]) -> Schema:
        specs = []
        for value in values:
            tensor = value.type.tensor_type
            shape = [d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim]
            dtype = np.dtype(tensor_dtype_to_np_dtype(tensor.elem_type))
            specs.append(TensorSpec(dtype, tuple(shape), value.name))
        return Schema(specs)

    weights = {tensor.name for tensor in graph.graph.initializer}
    inputs = [value for value in graph.graph.input if value.name not in weights]
    return ModelSignature(inputs=schema(inputs), outputs=schema(list(graph.graph.output)))

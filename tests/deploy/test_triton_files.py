"""The files beside `deploy triton`: the client example, the image and the Kubernetes manifest."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from tritonclient import grpc, http

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "docker/triton/kubernetes.yaml"


@pytest.fixture(scope="module")
def objects():
    found = list(yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8")))
    return {each["kind"]: each for each in found}


@pytest.fixture(scope="module")
def container(objects):
    (only,) = objects["Deployment"]["spec"]["template"]["spec"]["containers"]
    return only


def test_every_selector_finds_the_pods_and_every_name_an_object(objects):
    deployment = objects["Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert objects["Service"]["spec"]["selector"] == labels
    assert objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    target = objects["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
    assert target["apiVersion"] == deployment["apiVersion"]
    claims = [
        volume["persistentVolumeClaim"]["claimName"]
        for volume in deployment["spec"]["template"]["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    ]
    assert claims == [objects["PersistentVolumeClaim"]["metadata"]["name"]]


def test_a_server_gets_a_gpu_its_models_and_traffic_once_it_is_ready(objects, container):
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": 8000, "grpc": 8001, "metrics": 8002}
    assert {port["targetPort"] for port in objects["Service"]["spec"]["ports"]} <= ports.keys()
    for probe, path in (("startup", "ready"), ("readiness", "ready"), ("liveness", "live")):
        checked = container[f"{probe}Probe"]["httpGet"]
        assert checked == {"path": f"/v2/health/{path}", "port": "http"}
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    volumes = {
        volume["name"] for volume in objects["Deployment"]["spec"]["template"]["spec"]["volumes"]
    }
    assert mounts.keys() == volumes
    assert f"--model-repository={mounts['models']['mountPath']}" in container["args"]
    scraped = objects["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert scraped["prometheus.io/port"] == str(ports["metrics"])


def test_it_scales_on_the_metric_that_the_adapter_makes(objects):
    scaler = objects["HorizontalPodAutoscaler"]["spec"]
    assert scaler["minReplicas"] < scaler["maxReplicas"]
    (metric,) = scaler["metrics"]
    (rule,) = yaml.safe_load(objects["ConfigMap"]["data"]["values.yaml"])["rules"]["custom"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    assert metric["pods"]["target"]["type"] == "AverageValue"
    assert "nv_inference_queue_duration_us" in rule["metricsQuery"]


def test_the_image_passes_the_linter_and_has_what_the_text_model_imports():
    dockerfile = ROOT / "docker/triton/Dockerfile"
    linter = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([linter, dockerfile], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    server = ROOT / "deploy/triton/server"
    sources = [(server / name).read_text() for name in ("model.py", "bert_text.py")]
    imported = {
        name
        for source in sources
        for name in re.findall(r"^(?:from|import) (\w+)", source, re.MULTILINE)
        if name not in sys.stdlib_module_names
    }
    # The server has numpy and the first of these, and bert_text lies beside.
    others = imported - {"triton_python_backend_utils", "numpy", "bert_text"}
    assert others == {"tokenizers"}
    assert "'tokenizers" in dockerfile.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def example():
    path = ROOT / "docs/examples/triton_client.py"
    spec = importlib.util.spec_from_file_location("triton_client", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Client:
    """Answers in place of a server, behind the library's own request objects."""

    def __init__(self, library, inputs, outputs):
        self._metadata = {
            "inputs": [{"name": name} for name in inputs],
            "outputs": [{"name": name} for name in outputs],
        }
        self._outputs, self.sent = outputs, {}
        # The example asks which library a client is of.
        self.__class__ = type("Client", (Client,), {"__module__": library.__name__})

    def get_model_metadata(self, model, as_json=False):
        assert as_json == ("grpc" in type(self).__module__)
        return self._metadata

    def infer(self, model, inputs):
        self.sent = {each.name(): (each.datatype(), each.shape()) for each in inputs}
        return SimpleNamespace(as_numpy=self._outputs.get)


@pytest.mark.parametrize("library", [http, grpc], ids=["http", "grpc"])
def test_the_client_example_sends_texts_and_reads_answers(example, library):
    label = np.array([[b"good"], ["schön".encode()]], dtype=object)
    outputs = {"label": label, "probabilities": np.array([[0.25, 0.75], [1.0, 0.0]])}
    client = Client(library, ["text"], outputs)
    answers = example.ask_texts(library, client, "demo", {"text": ["a", "b"]})
    assert client.sent == {"text": ("BYTES", [2, 1])}
    assert answers == [
        {"label": "good", "probabilities": [0.25, 0.75]},
        {"label": "schön", "probabilities": [1.0, 0.0]},
    ]


@pytest.mark.parametrize("library", [http, grpc], ids=["http", "grpc"])
def test_the_client_example_pads_token_ids_to_the_bucket(example, library):
    client = Client(library, ["input_ids", "attention_mask"], {"logits": np.zeros((2, 2))})
    answers = example.ask_token_ids(library, client, "demo-fp8", [[2, 3], [2, 5, 3]], 32)
    assert client.sent == {name: ("INT64", [2, 32]) for name in ("input_ids", "attention_mask")}
    assert answers == [{"logits": [0.0, 0.0]}] * 2

"""`stprivacy services start --ray`: two nodes with a token, on which a job finds storage and tracking server."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
JOB = """
import json, os, ray
from mlflow import MlflowClient
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
ray.init(log_to_driver=False, logging_level="ERROR")
alive = [node for node in ray.nodes() if node["Alive"]]
on = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in alive]
@ray.remote
def folder():
    return os.getcwd()
folders = ray.get([folder.options(scheduling_strategy=node).remote() for node in on])
os.makedirs("results")  # the job's folder is still here when every node has unpacked its own
nodes = sorted(node["NodeManagerAddress"] for node in alive)
found = [nodes, len(set(folders)), MlflowClient().get_experiment("0").artifact_location, os.environ["STPRIVACY_STORAGE"]]
print("found", json.dumps(found))
"""


@pytest.fixture
def cluster(services):
    try:
        services.start("--ray")
        yield services
    finally:
        for name in ("ray-worker", "ray-head"):  # the other services are other tests', too
            services.kill(name)


def test_a_job_with_the_token_has_a_folder_on_each_of_two_nodes_and_the_other_services_and_nobody_else_gets_in(cluster, tmp_path):
    (tmp_path / "job").mkdir()
    (tmp_path / "job/look.py").write_text(JOB)
    variables = cluster.variables()
    environment = os.environ | {name: value for name, value in variables.items() if name.startswith("RAY_")}
    command = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--working-dir", "job", "--", "python", "look.py"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (line,) = (line for line in ended.stdout.splitlines() if line.startswith("found "))
    nodes = ["127.0.0.2", "127.0.0.3"]
    assert json.loads(line.removeprefix("found ")) == [nodes, 2, "mlflow-artifacts:/0", variables["STPRIVACY_STORAGE"]]
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{variables['RAY_ADDRESS']}/api/jobs/", timeout=30)
    assert refused.value.code in (401, 403)
    refused.value.close()

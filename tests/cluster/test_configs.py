"""The cluster files that we ship, read by Ray's own code; the cloud is moto's stand-in for AWS."""

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cluster import capacity
from orchestrator.cluster.capacity import gpu_kinds, grown, may_have
from orchestrator.cluster.slots import Machine

ROOT = Path(__file__).parents[2]
AWS = ROOT / "cluster.yaml"
ROLE = "ray-autoscaler-v1"
OWN_MACHINES = ROOT / "docs" / "cluster" / "own-machines.yaml"


def prepared(path: Path) -> dict[str, Any]:
    """As `ray up` reads it; raises where Ray's schema is not met."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load(path.read_text()))
    validate_config(config)
    return config


@pytest.mark.parametrize("path", [AWS, OWN_MACHINES], ids=lambda path: path.name)
def test_every_node_asks_for_the_token_and_nothing_listens_outside(path: Path):
    config = prepared(path)
    assert any(mount.endswith(".ray/auth_token") for mount in config["file_mounts"])
    for kind in ("head", "worker"):
        (start,) = [c for c in config[f"{kind}_start_ray_commands"] if "ray start" in c]
        assert "RAY_AUTH_MODE=token" in start
        assert "--disable-usage-stats" in start or "RAY_USAGE_STATS_ENABLED=0" in start
    (head,) = [c for c in config["head_start_ray_commands"] if "ray start" in c]
    assert "--dashboard-host=127.0.0.1" in head
    services = [c for c in config["head_start_ray_commands"] if "services start" in c]
    assert services and not any("--host" in command for command in services)
    # The same wheel on every node, not only on the head.
    assert any(mount.endswith("wheel") for mount in config["file_mounts"])
    assert any("pip install" in command for command in config["setup_commands"])


def test_own_machines_are_one_head_and_its_workers():
    config = prepared(OWN_MACHINES)
    (node_type,) = config["available_node_types"].values()
    assert node_type["min_workers"] == len(config["provider"]["worker_ips"]) == 2


@pytest.fixture(scope="module")
def bootstrapped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    """`cluster.yaml` with key pair, role, network and machine types filled in by Ray; a client."""
    moto = pytest.importorskip("moto")
    import boto3
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.util import prepare_config

    logging.getLogger("ray").setLevel(logging.ERROR)
    home = tmp_path_factory.mktemp("home")
    (home / ".ssh").mkdir()
    with (
        pytest.MonkeyPatch.context() as patch,
        moto.mock_aws(),
    ):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            patch.setenv(name, "testing")
        patch.setenv("HOME", str(home))  # where Ray puts the key that it makes
        text = AWS.read_text()
        region = yaml.safe_load(text)["provider"]["region"]
        client = boto3.client("ec2", region_name=region)
        image = client.describe_images()["Images"][0]["ImageId"]
        # As a second `ray up` finds it; after making it, Ray waits for 15 seconds.
        iam = boto3.client("iam", region_name=region)
        iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument="{}")
        iam.create_instance_profile(InstanceProfileName=ROLE)
        iam.add_role_to_instance_profile(InstanceProfileName=ROLE, RoleName=ROLE)
        config = prepare_config(yaml.safe_load(text.replace("ami-00000000000000000", image)))
        yield AWSNodeProvider.bootstrap_config(config), client


@pytest.mark.slow
def test_aws_takes_the_machines_that_we_ask_for(bootstrapped):
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    config, client = bootstrapped
    types = AWSNodeProvider.fillout_available_node_types_resources(config)["available_node_types"]
    assert types["head"]["resources"]["CPU"] == 0, "a trial may be placed on the head"
    for name in ("gpu_spot", "gpu_on_demand"):
        assert types[name]["resources"]["GPU"] == 1
    machines = may_have({**config, "available_node_types": types})
    assert len(machines) == config["max_workers"] == 8
    assert set(machines) == {Machine(cpus=4, gpus=1, gpu_kind="L4")}
    assert types["gpu_spot"]["priority"] > types["gpu_on_demand"]["priority"]
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    for name in ("head", "gpu_spot"):
        provider.create_node(types[name]["node_config"], {"ray-user-node-type": name}, 1)
    found = [i for r in client.describe_instances()["Reservations"] for i in r["Instances"]]
    lifecycles = {i["InstanceType"]: i.get("InstanceLifecycle") for i in found}
    assert lifecycles == {"m6i.xlarge": None, "g6.xlarge": "spot"}


def test_the_kinds_of_gpu_that_may_come_are_known(tmp_path, monkeypatch):
    def kind(name: str, number: int) -> dict[str, Any]:
        return {"resources": {"CPU": 4, "GPU": 1, f"accelerator_type:{name}": 1}} | (
            {"max_workers": number} if number else {}
        )

    types = {"head": {"resources": {"CPU": 0}}, "a": kind("L4", 8), "b": kind("H100", 2)}
    config = {"head_node_type": "head", "max_workers": 8, "available_node_types": types}
    path = tmp_path / "bootstrap.yaml"
    path.write_text(yaml.safe_dump(config))
    monkeypatch.setattr(capacity, "BOOTSTRAP_CONFIG", path)
    l4, h100 = (Machine(cpus=4, gpus=1, gpu_kind=name) for name in ("L4", "H100"))
    a100 = Machine(cpus=8, gpus=1, gpu_kind="A100")
    assert grown([], "H100") == [h100] * 2, "the other kind takes none of its machines"
    assert grown([a100], "A100") == [a100], "what runs already counts, too"
    assert Counter(grown([a100, l4])) == {a100: 1, l4: 8}
    types["a"]["resources"].pop("accelerator_type:L4")  # Ray tells it when a machine is up
    path.write_text(yaml.safe_dump(config))
    assert Counter(grown([l4])) == {l4: 8}
    path.write_text(yaml.safe_dump({**config, "available_node_types": {"head": types["head"]}}))
    assert grown([l4]) == [l4], "no machine is lost"
    path.write_text(
        yaml.safe_dump({**config, "available_node_types": types | {"a": kind("L4", 8)}})
    )
    assert gpu_kinds([a100]) == {"A100", "H100", "L4"}


def test_only_ssh_is_open_to_the_outside(bootstrapped):
    config, client = bootstrapped
    groups = config["available_node_types"]["head"]["node_config"]["SecurityGroupIds"]
    (group,) = client.describe_security_groups(GroupIds=groups)["SecurityGroups"]
    outside = [rule for rule in group["IpPermissions"] if rule["IpRanges"]]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in outside] == [(22, 22)]

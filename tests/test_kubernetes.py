"""The manifests for Kubernetes: valid, safe, wired together, and scaled."""

import itertools
import json
import os
import re
import shutil
import subprocess
from contextlib import ExitStack
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cc_textfile.demo import portal as demo
from cc_textfile.settings import SETTINGS, Shard
from tests import cdn, containers
from tests.conftest import ROOT, eventually, tool

pytestmark = pytest.mark.xdist_group("containers")  # one process makes the images

if TYPE_CHECKING:
    from cc_textfile.ledger import ChannelTotals

DEPLOY = ROOT / "deploy" / "kubernetes"
OLDEST = "1.31"
"""The first version in which everything that the manifests use is stable."""

PORT = 8044


@cache
def manifests(folder: Path = DEPLOY) -> dict[str, dict[str, Any]]:
    """Return what `kubectl apply --kustomize` would apply, by kind and name, without the hashes of the names."""
    made = subprocess.run(
        [tool("kubectl"), "kustomize", folder], check=True, capture_output=True, text=True, encoding="utf-8"
    )
    documents = list(yaml.safe_load_all(made.stdout))
    return {re.sub("-[a-z0-9]{10}$", "", f"{each['kind']} {each['metadata']['name']}"): each for each in documents}


def pod(folder: Path = DEPLOY) -> dict[str, Any]:
    """Return the specification of the pods."""
    found: dict[str, Any] = manifests(folder)["StatefulSet cc-textfile"]["spec"]["template"]["spec"]
    return found


def with_pods(count: int, folder: Path) -> Path:
    """Return a copy of the manifests for so many pods, changed as the comment in them says."""
    copy = Path(shutil.copytree(DEPLOY, folder / str(count)))
    file = copy / "kustomization.yaml"
    text, changed = re.subn(r"count: \d+ # <- change", f"count: {count}", file.read_text())
    assert changed == 1
    file.write_text(text)
    return copy


def variables(container: dict[str, Any], ordinal: int, config: dict[str, str]) -> dict[str, str]:
    """Return a container's environment in a pod, as the kubelet makes it."""
    labels = {"apps.kubernetes.io/pod-index": str(ordinal)}
    found = dict(config) if "envFrom" in container else {}
    for each in container.get("env", []):
        if "value" in each:
            found[each["name"]] = re.sub(r"\$\((\w+)\)", lambda match: found[match[1]], each["value"])
        else:
            path = each["valueFrom"]["fieldRef"]["fieldPath"]
            found[each["name"]] = labels[re.fullmatch(r"metadata\.labels\['(.+)'\]", path)[1]]  # type: ignore[index]
    return found


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
def test_the_manifests_are_valid(version: str) -> None:
    """By the schemas of Kubernetes, where no unknown field is allowed; the PodMonitor is of another project."""
    for name, document in manifests().items():
        if not name.startswith("PodMonitor "):
            kubernetes_validate.validate(document, version, strict=True)


def test_prometheus_finds_the_pods() -> None:
    """PodMonitor and Service select the labels of the pods, and name a port that a container has."""
    labels = manifests()["StatefulSet cc-textfile"]["spec"]["template"]["metadata"]["labels"]
    ports = {port["name"] for container in pod()["containers"] for port in container.get("ports", [])}
    monitor, service = manifests()["PodMonitor cc-textfile"]["spec"], manifests()["Service cc-textfile"]["spec"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert service["selector"].items() <= labels.items()
    assert {endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]} <= ports
    assert {port["targetPort"] for port in service["ports"]} <= ports


def test_the_pods_meet_the_restricted_standard() -> None:
    """What the Pod Security Standard `restricted` asks for, and a read-only root file system, and no token."""
    assert pod()["securityContext"]["runAsNonRoot"]
    assert pod()["securityContext"]["runAsUser"] > 0
    assert pod()["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not pod()["automountServiceAccountToken"]
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & pod().keys()
    allowed = {"configMap", "emptyDir", "secret"}
    assert all(volume.keys() - {"name"} <= allowed for volume in pod()["volumes"])
    for container in pod()["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
        assert not any("hostPort" in port for port in container.get("ports", []))


def test_all_settings_are_known() -> None:
    """A variable that is misspelt would be ignored."""
    (container,) = (each for each in pod()["containers"] if each["name"] == "cc-textfile")
    names = variables(container, 1, manifests()["ConfigMap cc-textfile"]["data"]).keys()
    assert names - {setting.variable for setting in SETTINGS} == {"POD_INDEX"}


@pytest.mark.parametrize("count", [1, 2, 4])
def test_each_channel_is_polled_by_one_pod(count: int, tmp_path: Path) -> None:
    """The number of pods is set in one place, and the pods divide the channels among them."""
    folder = with_pods(count, tmp_path)
    stateful = manifests(folder)["StatefulSet cc-textfile"]["spec"]
    assert stateful["replicas"] == count
    first = stateful["ordinals"]["start"]
    container = pod(folder)["containers"][0]
    shards = [variables(container, first + n, {})["CC_TEXTFILE_SHARD"] for n in range(stateful["replicas"])]
    assert shards == [f"{number}/{count}" for number in range(1, count + 1)]
    for channel in map(str, range(1000, 1200)):
        assert sum(Shard(number, count).has(channel) for number in range(1, count + 1)) == 1


@given(channel=st.text(min_size=1), total=st.integers(1, 50))
def test_twice_the_shards_divide_each_shard_in_two(channel: str, total: int) -> None:
    """A channel of shard 1/2 is in 1/4 or 3/4 then, one of 2/2 in 2/4 or 4/4: none moves between old shards."""
    (number,) = (n for n in range(1, total + 1) if Shard(n, total).has(channel))
    (later,) = (n for n in range(1, 2 * total + 1) if Shard(n, 2 * total).has(channel))
    assert later in {number, number + total}


def test_half_of_the_channels_move_from_two_shards_to_four() -> None:
    """Each old shard keeps half of its channels, more or less, and gives the other half to one new shard."""
    moves = [
        (old, new)
        for channel in map(str, range(100_000, 104_000))
        for old, new in itertools.product(range(1, 3), range(1, 5))
        if Shard(old, 2).has(channel) and Shard(new, 4).has(channel)
    ]
    assert set(moves) == {(1, 1), (1, 3), (2, 2), (2, 4)}
    assert all(900 < moves.count(move) < 1100 for move in set(moves))


@pytest.mark.slow
@pytest.mark.parametrize("copied", [False, True])
def test_what_the_counters_count_when_two_pods_become_four(tmp_path: Path, *, copied: bool) -> None:
    """Channels that stay are counted on. Those that move begin anew, and with a copy of the ledger are counted on, too.

    What is counted on has no time twice, and none left out. What begins anew does so at the latest settled step.
    """
    channels = [str(number) for number in range(1000, 1012)]
    world = cdn.Cdn(cdn.at("03 10:02"))
    counted: dict[str, ChannelTotals] = {}

    def poll(pods: int, start: str, end: str) -> None:
        world.now = cdn.at(start)
        while world.now < cdn.at(end):
            for number in range(1, pods + 1):
                mine = [channel for channel in channels if Shard(number, pods).has(channel)]
                counted.update(cdn.poll(world, cdn.ledger(tmp_path / str(number), mine)).channels)
            world.now += cdn.STEP

    poll(2, "03 10:02", "03 12:00")
    before = dict(counted)
    if copied:
        shutil.copy(tmp_path / "1", tmp_path / "3")
        shutil.copy(tmp_path / "2", tmp_path / "4")
    poll(4, "03 12:07", "03 14:00")
    moved = {channel for channel in channels if Shard(3, 4).has(channel) or Shard(4, 4).has(channel)}
    assert 0 < len(moved) < len(channels)
    for channel, after in counted.items():
        new = channel in moved and not copied
        base = 0 if new else before[channel].settled_seconds
        first = after.settled_end - timedelta(seconds=after.settled_seconds - base)
        assert first == (cdn.at("03 11:50") if new else before[channel].settled_end)
        assert before[channel].settled_end == cdn.at("03 11:40")


@pytest.fixture
def mounts(tmp_path: Path) -> dict[str, Path]:
    """Make the volumes of a pod as the kubelet does: files of a Secret or ConfigMap are links, and have a group."""
    group = pod()["securityContext"]["fsGroup"]
    found = {}
    for name in ("textfile", "ledger", "channels", "secret"):
        found[name] = tmp_path / name
        found[name].mkdir()
        os.chown(found[name], 0, group)
        found[name].chmod(0o2770)
    files = {
        "secret": ("password", demo.PASSWORD),
        "channels": ("channels.conf", '100201 team="web"\n100202\n100203\n'),
    }
    for name, (file, content) in files.items():
        data = found[name] / "..2026"
        data.mkdir()
        (data / file).write_text(content)
        os.chown(data / file, 0, group)
        (data / file).chmod(0o440)
        (found[name] / "..data").symlink_to("..2026")
        (found[name] / file).symlink_to(f"..data/{file}")
    return found


@pytest.mark.slow
def test_the_containers_of_a_pod_together(mounts: dict[str, Path]) -> None:
    """As the manifest wires them: a scrape of the second pod's node_exporter has what its shard polled and counted."""
    podman = containers.engine()
    config = manifests()["ConfigMap cc-textfile"]["data"]
    config |= {"CHINACACHE_USER": demo.USER, "CHINACACHE_URL": f"http://127.0.0.1:{PORT}"}
    images = {"cc-textfile": containers.WITHOUT_SHELL_IMAGE, "node-exporter": containers.NODE_EXPORTER}
    user = f"{pod()['securityContext']['runAsUser']}:{pod()['securityContext']['runAsGroup']}"
    with ExitStack() as stack:
        # Its network is that of the pod.
        portal = stack.enter_context(podman.container(containers.IMAGE, "demo", "--serve", str(PORT)))
        podman.wait_for_log(portal, "portal at")
        running = {}
        for container in pod()["containers"]:
            options = ["--read-only", "--read-only-tmpfs=false", "--cap-drop=all", "--security-opt=no-new-privileges"]
            options += [f"--network=container:{portal}", f"--user={user}"]
            options += [f"--group-add={pod()['securityContext']['fsGroup']}"]
            options += [f"--env={name}={value}" for name, value in variables(container, 2, config).items()]
            for mount in container["volumeMounts"]:
                mode = "ro" if mount.get("readOnly") else "rw"
                options.append(f"--volume={mounts[mount['name']]}:{mount['mountPath']}:{mode}")
            arguments = [images[container["name"]], *container.get("args", [])]
            running[container["name"]] = stack.enter_context(podman.container(*options, *arguments))
        podman.wait_for_log(running["cc-textfile"], "polled")
        (poller, exporter) = pod()["containers"]
        for probe in ("readinessProbe", "livenessProbe"):
            podman("exec", running["cc-textfile"], *poller[probe]["exec"]["command"])
        port = exporter["ports"][0]["containerPort"]
        get = f"import urllib.request as r; print(r.urlopen('http://127.0.0.1:{port}/metrics').read().decode())"
        scraped = eventually(lambda: podman.try_run("exec", portal, "python3", "-c", get).stdout)
        log = podman.log(running["cc-textfile"])
        podman("stop", "--time=5", running["cc-textfile"])
        assert podman("wait", running["cc-textfile"]) == "0"
    mine = {channel for channel in ("100201", "100202", "100203") if Shard(2, 2).has(channel)}
    assert set(re.findall(r'chinacache_settled_seconds_total\{account="demo",channel="(\d+)"\}', scraped)) == mine
    assert 'cc_textfile_poll_success{account="demo",shard="2/2"} 1' in scraped
    assert 'cc_textfile_ledger_up{account="demo",shard="2/2"} 1' in scraped
    assert "node_textfile_scrape_error 0" in scraped
    assert "node_cpu" not in scraped
    assert not [line for line in log.splitlines() if json.loads(line)["level"] != "info"], log

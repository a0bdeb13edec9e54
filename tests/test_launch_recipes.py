"""The recipes in configs/launch, as far as they can be checked without a cluster."""

import os
import signal
import subprocess
import time

import pytest
import yaml

from tests.launched import ROOT, script

RECIPES = ROOT / "configs" / "launch"
SCRIPTS = ("slurm.sbatch", "ssh.sh", "cloud_tpu_vm.sh")
HEADER = ("# Command ", "# Set ", "# Stops ", "# Checked ", "# Not ")


@pytest.mark.parametrize("name", [*SCRIPTS, "gke_jobset.yaml"])
def test_a_recipe_says_what_it_is_for_and_what_was_checked(name):
    text = (RECIPES / name).read_text()
    assert [text.count(f"\n{line}") for line in HEADER] == [1] * len(HEADER)
    assert name in (RECIPES / "README.md").read_text()


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_bash_and_ask_for_what_they_need(name):
    path = RECIPES / name
    subprocess.run(["bash", "-n", path], check=True)
    env = {**os.environ, "TPU": "t", "ZONE": "z"}
    env.pop("HOSTS", None)
    asked = subprocess.run(["bash", path], env=env, capture_output=True, text=True)
    assert asked.returncode == 2 and asked.stderr.startswith("usage:")


def test_a_job_that_stopped_early_goes_back_into_the_queue(tmp_path):
    script(tmp_path / "bin", "srun", f"echo $* >{tmp_path}/started\n")
    script(tmp_path / "bin", "scontrol", f"echo $* >{tmp_path}/requeued\n")
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "SLURM_JOB_ID": "71"}
    line = ["bash", RECIPES / "slurm.sbatch", "c.yaml", tmp_path / "run", "--mesh.data", "16"]
    subprocess.run(line, env=env, check=True, capture_output=True)
    assert (tmp_path / "started").read_text() == (
        f"--kill-on-bad-exit=1 vqathinker train c.yaml --output-dir {tmp_path}/run --distributed "
        "--mesh.data 16\n"
    )
    assert (tmp_path / "requeued").read_text() == "requeue 71\n"
    script(tmp_path / "bin", "srun", "exit 3\n")
    (tmp_path / "requeued").unlink()
    assert subprocess.run(line, env=env, capture_output=True).returncode == 3
    assert not (tmp_path / "requeued").exists()


def test_what_gcloud_is_asked_for(tmp_path):
    script(tmp_path / "bin", "gcloud", 'printf "[%s]" "$@"\n')
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "TPU": "slice", "ZONE": "us-east5-a"}

    def asked(*arguments, **more):
        line = ["bash", RECIPES / "cloud_tpu_vm.sh", *arguments]
        made = subprocess.run(line, env={**env, **more}, capture_output=True, text=True, check=True)
        return made.stdout

    start = "[compute][tpus][tpu-vm][ssh][slice][--zone][us-east5-a]"
    assert asked("a b.yaml", "/nfs/run", "--mesh.fsdp", "16", PROJECT="p") == (
        f"{start}[--project][p][--worker=all][--command][vqathinker train a\\ b.yaml --output-dir "
        "/nfs/run --distributed --mesh.fsdp 16]"
    )
    stopped = asked("--stop")
    assert stopped.startswith(f"{start}[--worker=0]") and "TERM" in stopped


def test_the_job_set_has_the_fields_of_its_kind():
    job_set = yaml.safe_load((RECIPES / "gke_jobset.yaml").read_text())
    assert (job_set["apiVersion"], job_set["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (replicated,) = job_set["spec"]["replicatedJobs"]
    assert replicated.keys() == {"name", "replicas", "template"}
    job = replicated["template"]["spec"]
    # JAX counts the processes by `parallelism`, and tells them apart by their index.
    assert job["parallelism"] == job["completions"] and job["completionMode"] == "Indexed"
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    chips = 1
    for size in pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"):
        chips *= int(size)
    resources = container["resources"]
    assert resources["limits"] == resources["requests"]
    assert chips == job["parallelism"] * resources["limits"]["google.com/tpu"]
    options = {one["name"]: one["value"] for one in container["env"]}["OPTIONS"]
    assert options == f"--mesh.fsdp {chips}"
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }


def test_a_pod_hands_sigterm_on_and_fails_until_the_model_is_there(tmp_path):
    job_set = yaml.safe_load((RECIPES / "gke_jobset.yaml").read_text())
    job = job_set["spec"]["replicatedJobs"][0]["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    script(
        tmp_path / "bin",
        "vqathinker",
        f"trap 'echo saved >{tmp_path}/saved; exit 0' TERM\n"
        f"echo $* >{tmp_path}/started\n"
        f"for i in $(seq 400); do [ -e {tmp_path}/done ] && exit 0; sleep 0.05; done\nexit 9\n",
    )
    env = {
        **os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "CONFIG": "c.yaml",
        "RUN": str(tmp_path / "run"), "OPTIONS": "--mesh.fsdp 16",
    }  # fmt: skip
    line = [*container["command"], *container["args"]]
    pod = subprocess.Popen(line, env=env)
    while not (tmp_path / "started").exists():
        assert pod.poll() is None
        time.sleep(0.02)
    pod.send_signal(signal.SIGTERM)
    assert pod.wait(60) == 75 and (tmp_path / "saved").exists()
    wanted = f"train c.yaml --output-dir {tmp_path}/run --distributed --mesh.fsdp 16\n"
    assert (tmp_path / "started").read_text() == wanted

    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "done").write_text("")
    assert subprocess.run(line, env=env).returncode == 0

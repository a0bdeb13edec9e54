"""Imports go down the layers only."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "vqathinker_jax"

# A module imports only what stands above it, or to its left on its own line.
LAYERS = """
spec yaml_values strict_yaml
launchers roll_call processes lifeline
records whole_file metrics results calibration parallel layouts
data.clip data.resize data.fragments data.slices data.frames data.color data.container data.stills
data.pyav data.decord data.video
data.worker data.pool data.cache data.reader
data.sources data.prompt data.perturb data.labels data.augment data.order data.dataset
synthetic.textures synthetic.scenery synthetic.scenes
synthetic.encoding synthetic.distortions synthetic.opinions
synthetic.clips synthetic.pictures synthetic.collection synthetic.variants
models.pixels models.layers models.visibility models.splash models.attention
models.internvit models.qwen2 models.lora models.slowfast models.projectors
models.vqathinker
models.generate models.logprobs models.packed models.digits models.presets
weights.errors weights.pieces weights.tensor_files weights.torch_pickle weights.tokenizer
weights.mapping weights.config_json weights.config_fields weights.motion weights.readers
weights.folder_writer weights.adapter weights.merged weights.huggingface weights.checkpoint
weights.streaming weights.convert weights.load weights.initial weights.small_tokenizer weights.tiny
bundled
rl.answers rl.responses rl.words rl.rewards rl.grpo rl.baselines
aggregate result_file timeline terminal timeline_plot
reports.page reports.pictures reports.charts
rl.recorded_run rl.curves rl.figures rl.report
inference
rl.rollout rl.trainable rl.rounded_adam rl.optimizer rl.update
config
soft_score score_settings asking scoring
evaluation.outcome
reports.timeline_chart reports.agreement reports.folder
rl.compilations rl.run_state rl.scalars rl.run_log rl.attempts rl.step_profile rl.signals
rl.run_folder
rl.stages rl.vocabulary rl.first_layers rl.whitening rl.reference rl.start rl.export rl.validation
rl.run rl.sft rl.train
plan.chips plan.topologies plan.flops plan.traffic
plan.job plan.abstract_run plan.programs plan.worker plan.apart
plan.suggestions plan.request plan.run plan.table
api
evaluation.benchmarks evaluation.predictions evaluation.statistics
evaluation.beside evaluation.judged evaluation.table1 evaluation.tables
evaluation.distortions evaluation.judge evaluation.finevd evaluation.questions
evaluation.understanding evaluation.folder
reports.tables reports.evaluation
evaluation.shards evaluation.scored evaluation.asked evaluation.provenance evaluation.run
app.limits app.uploads app.events app.jobs app.server
demo.folder demo.handful demo.training demo.outcome demo.page demo.run
cli.parsing cli.joining cli.model_options cli.evaluate_options
cli.score cli.evaluate cli.calibrate cli.app cli.demo cli.train cli.plan cli.report
cli.convert cli.make_tiny cli.synth
cli.command_line cli.__main__
"""

ORDER = {name: i for i, name in enumerate(LAYERS.split())}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def modules() -> list[Path]:
    return [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]


def imports(path: Path) -> set[str]:
    """Names of our own modules that a file imports, wherever in the file."""
    known = {module_name(other) for other in modules()}
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vqathinker_jax"):
            base = node.module.removeprefix("vqathinker_jax").lstrip(".")
            if base in known:
                found.add(base)
            for alias in node.names:
                inner = f"{base}.{alias.name}".lstrip(".")
                if inner in known:
                    found.add(inner)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                inner = alias.name.removeprefix("vqathinker_jax").lstrip(".")
                if alias.name.startswith("vqathinker_jax.") and inner in known:
                    found.add(inner)
    return found


def test_every_module_has_a_layer():
    assert {module_name(path) for path in modules()} == set(ORDER)


def test_imports_go_down_only():
    upward = [
        f"{module_name(path)} imports {name}"
        for path in modules()
        for name in imports(path)
        if ORDER[name] >= ORDER[module_name(path)]
    ]
    assert not upward, upward


def test_the_reader_of_imports_sees_upward_ones():
    found = imports(PACKAGE / "models" / "vqathinker.py")
    assert {"models.internvit", "models.qwen2", "spec"} <= found


def test_torch_is_never_imported():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not any(name.split(".")[0] in ("torch", "pickle5") for name in names), path

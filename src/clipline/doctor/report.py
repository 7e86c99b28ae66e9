"""All that the doctor found, as lines to read or as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from clipline.doctor import machine
from clipline.doctor.machine import Cpu, Format
from clipline.doctor.providers import Placement, Provider, placements, providers
from clipline.doctor.throughput import Rates, rates
from clipline.embed.item import Source
from clipline.errors import CliplineError, UsageError
from clipline.runtime.bundle import Bundle, PrecisionChoice
from clipline.runtime.model import OnnxModel
from clipline.runtime.session import CUDA, CUDA_FIX, no_device
from clipline.utils import cores

# Of the failed images, so many are named.
SHOWN = 5


@dataclass
class Report:
    """What there is. problems: what is broken, each with its fix; notes: what could be better."""

    system: str
    cpu: Cpu
    versions: dict[str, str]
    wheels: dict[str, str]
    formats: list[Format]
    device: str
    providers: list[Provider] = field(default_factory=list)
    model: dict[str, str] | None = None
    graphs: list[Placement] = field(default_factory=list)
    rates: Rates | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def json(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"ok": not self.problems} | asdict(self)

    def lines(self) -> Iterator[str]:
        """As people read it."""
        yield f"system      {self.system}"
        yield f"cpu         {self.cpu}"
        yield f"nvidia      {self.device}"
        yield f"packages    {_named(self.versions)}"
        yield f"wheels      {_named(self.wheels) or 'no onnxruntime'}"
        read = [each.name + f" ({each.note})" * bool(each.note) for each in self.formats if each.read]
        unread = [each.name for each in self.formats if not each.read]
        yield f"formats     {', '.join(read)}" + (f"; not {', '.join(unread)}" if unread else "")
        for each in self.providers:
            yield f"provider    {each.name}: " + ("runs" if each.runs else f"does not run: {each.why}")
        if self.model:
            yield f"model       {self.model['folder']}: {self.model['recipe']}, {self.model['model_id']}"
        for each in self.graphs:
            yield f"graph       {each.file}, {each.bytes / 1e6:,.1f} MB: {_placed(each)}"
        if self.rates:
            yield from _rate_lines(self.rates)
        for kind, messages in (("note", self.notes), ("problem", self.problems)):
            for message in messages:
                yield f"{kind + ':':<12}{message}"
        yield "all right" if not self.problems else f"{len(self.problems)} broken"


def examine(
    source: Source | None,
    folder: Path | None,
    *,
    provider: Literal["auto", "cpu", "cuda"] = "auto",
    precision: PrecisionChoice = "fp32",
    threads: int | None = None,
) -> Report:
    """Look at everything. source: images to measure with. folder: of the model.

    What is broken is a problem in the report, not an exception; UsageError is raised where `folder` is no model, or
    where there are images but no model.
    """
    if source and not folder:
        raise UsageError("images are measured with a model. Fix: add --model, such as --model models/onnx")
    bundle = Bundle(folder) if folder else None
    threads = threads or cores.available()
    report = Report(
        system=machine.system(),
        cpu=machine.cpu(),
        versions=machine.versions(),
        wheels=machine.wheels(),
        formats=machine.formats(),
        device=no_device() or "a GPU that this process can see",
    )
    report.problems += [
        f"Pillow reads no {each.name} here. Fix: pip install --force-reinstall pillow"
        for each in report.formats
        if not each.read and each.name in {"JPEG", "PNG"}
    ]
    try:
        report.problems += machine.wheel_problems(report.wheels)
        report.providers = providers(threads)
        _judge(report, provider)
        if bundle:
            _look_at_model(report, bundle, provider, threads)
        if source and not report.problems:
            model = OnnxModel(folder, provider=provider, precision=precision, threads=threads, bulk=True)
            report.rates = rates(source, model, threads, model.usual_batch)
            _judge_rates(report)
    except CliplineError as error:
        report.problems.append(str(error))
    return report


def _judge(report: Report, wanted: str) -> None:
    """Problems and notes about the providers."""
    cpu, cuda = report.providers
    if not cpu.runs:
        report.problems.append(f"{cpu.why}. Fix: {machine.REINSTALL.format(' '.join(report.wheels))}")
    if cuda.runs:
        return
    device = no_device() is None
    if wanted == "cuda" or (wanted == "auto" and device and cuda.available):
        report.problems.append(f"CUDA does not run: {cuda.why}. {CUDA_FIX}")
    elif device and wanted == "auto":
        report.notes.append(
            "there is an NVIDIA GPU, but this onnxruntime is for CPUs alone: pip uninstall onnxruntime, "
            "then pip install 'clipline[gpu]'"
        )


def _look_at_model(report: Report, bundle: Bundle, wanted: Literal["auto", "cpu", "cuda"], threads: int) -> None:
    manifest = bundle.manifest
    report.model = {"folder": str(bundle.folder), "recipe": manifest.recipe, "model_id": manifest.model_id}
    if wanted == "cuda" and not report.providers[1].runs:
        return  # the problem is in the report already
    try:
        bundle.read_tokenizer()
    except CliplineError as error:
        report.problems.append(str(error))
    report.graphs = placements(bundle, wanted, threads)
    for each in report.graphs:
        if each.problem:
            report.problems.append(each.problem)
        elif wanted == "cuda" and CUDA not in each.nodes:
            report.problems.append(f"{each.file}: no node of it runs on CUDA. Fix: export the model again")
        elif each.cpu_work:
            report.notes.append(f"{each.file}: on CUDA, yet {', '.join(each.cpu_work)} stay on the CPU")


def _judge_rates(report: Report) -> None:
    found = report.rates
    if found.failures:
        more = "" if len(found.failures) <= SHOWN else f" and {len(found.failures) - SHOWN} more"
        report.notes.append(f"images that cannot be used: {'; '.join(found.failures[:SHOWN])}{more}")


def _rate_lines(found: Rates) -> Iterator[str]:
    yield f"measured    {found.images} images, batches of {found.batch_size}, on {found.running_on}"
    for name, rate in found.stages.items():
        yield f"  {name:<10}{rate:>10,.0f} images/s" + (" (the limit)" if name == found.limit else "")
    share = found.together / found.possible
    yield f"  {'together':<10}{found.together:>10,.0f} images/s, {share:.0%} of what decode and model allow here"


def _placed(graph: Placement) -> str:
    if graph.problem:
        return "does not run"
    nodes = [f"{count} nodes on {name} ({graph.share[name]:.0%} of the time)" for name, count in graph.nodes.items()]
    return ", ".join(nodes)


def _named(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())

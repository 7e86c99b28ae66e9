"""Run all checks of `clipline doctor`, and report them as text or as JSON."""

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

# The number of failed images that a note lists.
SHOWN = 5


@dataclass
class Report:
    """The results of all checks. problems: errors with their fixes. notes: possible improvements."""

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
        """The report as JSON values."""
        return {"ok": not self.problems} | asdict(self)

    def lines(self) -> Iterator[str]:
        """The report as lines of text."""
        yield f"system      {self.system}"
        yield f"cpu         {self.cpu}"
        yield f"nvidia      {self.device}"
        yield f"packages    {_listed(self.versions)}"
        yield f"wheels      {_listed(self.wheels) or 'no onnxruntime'}"
        read = [kind.name + f" ({kind.note})" * bool(kind.note) for kind in self.formats if kind.read]
        unread = [kind.name for kind in self.formats if not kind.read]
        yield f"formats     {', '.join(read)}" + (f"; not {', '.join(unread)}" if unread else "")
        for provider in self.providers:
            yield f"provider    {provider.name}: " + ("runs" if provider.runs else f"does not run: {provider.why}")
        if self.model:
            yield f"model       {self.model['folder']}: {self.model['recipe']}, {self.model['model_id']}"
        for graph in self.graphs:
            yield f"graph       {graph.file}, {graph.bytes / 1e6:,.1f} MB: {_placed(graph)}"
        if self.rates:
            yield from _rate_lines(self.rates)
        for kind, messages in (("note", self.notes), ("problem", self.problems)):
            for message in messages:
                yield f"{kind + ':':<12}{message}"
        count = len(self.problems)
        yield f"{count} problem{'s' * (count > 1)}" if count else "OK"


def examine(
    source: Source | None,
    folder: Path | None,
    *,
    provider: Literal["auto", "cpu", "cuda"] = "auto",
    precision: PrecisionChoice = "fp32",
    threads: int | None = None,
) -> Report:
    """Run all checks. source: images to measure with. folder: of the model to check.

    An error that a check finds becomes a problem in the report. Raises UsageError where `folder` is no model, or where
    there are images but no model.
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
        f"Pillow reads no {kind.name} here. Fix: pip install --force-reinstall pillow"
        for kind in report.formats
        if not kind.read and kind.name in {"JPEG", "PNG"}
    ]
    try:
        report.problems += machine.wheel_problems(report.wheels)
        report.providers = providers(threads)
        _check_providers(report, provider)
        if bundle:
            _check_model(report, bundle, provider, threads)
        if source and not report.problems:
            model = OnnxModel(folder, provider=provider, precision=precision, threads=threads, bulk=True)
            report.rates = rates(source, model, threads, model.usual_batch)
            if failures := report.rates.failures:
                more = f" and {len(failures) - SHOWN} more" if len(failures) > SHOWN else ""
                report.notes.append(f"images that cannot be used: {'; '.join(failures[:SHOWN])}{more}")
    except CliplineError as error:
        report.problems.append(str(error))
    return report


def _check_providers(report: Report, wanted: str) -> None:
    """Add problems and notes about the providers."""
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


def _check_model(report: Report, bundle: Bundle, wanted: Literal["auto", "cpu", "cuda"], threads: int) -> None:
    """Add the model, where its graphs ran, and problems and notes about them."""
    manifest = bundle.manifest
    report.model = {"folder": str(bundle.folder), "recipe": manifest.recipe, "model_id": manifest.model_id}
    if wanted == "cuda" and not report.providers[1].runs:
        return  # the report has this problem already
    try:
        bundle.read_tokenizer()
    except CliplineError as error:
        report.problems.append(str(error))
    report.graphs = placements(bundle, wanted, threads)
    for graph in report.graphs:
        if graph.problem:
            report.problems.append(graph.problem)
        elif wanted == "cuda" and CUDA not in graph.nodes:
            report.problems.append(f"{graph.file}: no node of it runs on CUDA. Fix: export the model again")
        elif graph.cpu_work:
            report.notes.append(f"{graph.file}: on CUDA, yet {', '.join(graph.cpu_work)} stay on the CPU")


def _rate_lines(rates: Rates) -> Iterator[str]:
    yield f"measured    {rates.images} images, batches of {rates.batch_size}, on {rates.running_on}"
    for name, rate in rates.stages.items():
        yield f"  {name:<10}{rate:>10,.0f} images/s" + (" (the limit)" if name == rates.limit else "")
    share = rates.together / rates.possible
    yield f"  {'together':<10}{rates.together:>10,.0f} images/s, {share:.0%} of what decode and model allow here"


def _placed(graph: Placement) -> str:
    if graph.problem:
        return "does not run"
    nodes = [f"{count} nodes on {name} ({graph.share[name]:.0%} of the time)" for name, count in graph.nodes.items()]
    return ", ".join(nodes)


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
